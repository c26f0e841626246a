"""同一个 serve 的各进程：问谁都一样，死了的不带走它数过的。"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from meeting_push.monitoring.metrics import Metrics, Sample
from meeting_push.monitoring.snapshots import DEPARTED, STALE_S, Family, ServeFiles, ServeFolder


class Worker:
    """一个工人：数着一样东西，握着几条连接。"""

    def __init__(self, folder: ServeFolder, index: int) -> None:
        self.counts: Counter[str] = Counter()
        self.metrics = Metrics(ServeFiles(folder.file_of(index)))
        self.metrics.add(self._samples)

    def _samples(self) -> Iterator[Sample]:
        yield Sample("done", "counter", "done", self.counts["done"])
        yield Sample("held", "gauge", "held", self.counts["held"])

    def seen(self, name: str = "done") -> float:
        return seen(self.metrics.families(), name)


def seen(families: list[Family], name: str) -> float:
    [family] = [one for one in families if one.name == f"meeting_push_{name}"]
    return sum(point.value for point in family.points)


@pytest.fixture
def folder() -> Iterator[ServeFolder]:
    made = ServeFolder()
    yield made
    made.remove()


def test_whoever_is_asked_tells_the_whole(folder: ServeFolder) -> None:
    one, other = Worker(folder, 0), Worker(folder, 1)
    one.counts.update(done=3, held=1)
    other.counts.update(done=4, held=2)
    one.metrics.publish()
    other.metrics.publish()
    assert one.seen() == other.seen() == 7
    assert one.seen("held") == other.seen("held") == 3
    assert one.seen("processes") == 2


def test_what_was_told_by_one_is_never_less_when_another_is_asked(folder: ServeFolder) -> None:
    one, other = Worker(folder, 0), Worker(folder, 1)
    other.metrics.publish()
    one.metrics.publish()
    one.counts["done"] = 5  # 没有写下的，先写下再说
    assert one.seen() == 5
    assert other.seen() == 5


def test_the_dead_keep_their_counts_and_lose_their_gauges(folder: ServeFolder) -> None:
    one, other = Worker(folder, 0), Worker(folder, 1)
    one.counts.update(done=3, held=1)
    one.metrics.publish()
    folder.bury(0)
    assert (other.seen(), other.seen("held"), other.seen("processes")) == (3, 0, 1)


def test_a_place_that_dies_again_and_again_adds_up(folder: ServeFolder) -> None:
    other = Worker(folder, 1)
    for life in range(1, 4):
        worker = Worker(folder, 0)
        worker.counts["done"] = 10
        worker.metrics.publish()
        assert other.seen() == 10 * life
        folder.bury(0)
        assert other.seen() == 10 * life


def test_who_is_buried_but_still_lies_there_is_counted_once(folder: ServeFolder) -> None:
    """抓取来在“并进去”与“拿走”之间。"""
    one, other = Worker(folder, 0), Worker(folder, 1)
    one.counts["done"] = 3
    one.metrics.publish()
    last = folder.file_of(0).read_bytes()
    folder.bury(0)
    folder.file_of(0).write_bytes(last)
    assert other.seen() == 3


def test_who_died_before_writing_anything_leaves_nothing(folder: ServeFolder) -> None:
    folder.bury(0)
    assert not (folder.file_of(0).parent / DEPARTED).exists()


def test_nobody_else_can_read_them(folder: ServeFolder) -> None:
    Worker(folder, 0).metrics.publish()
    file = folder.file_of(0)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (file.parent, file)]
    assert modes == [0o700, 0o600]


def test_a_folder_that_is_gone_does_not_stop_the_answer(folder: ServeFolder) -> None:
    worker = Worker(folder, 0)
    worker.counts["done"] = 2
    folder.remove()
    assert worker.seen() == 2
    assert not folder.file_of(0).parent.exists()


def test_a_torn_file_is_passed_over(folder: ServeFolder) -> None:
    worker = Worker(folder, 1)
    worker.counts["done"] = 2
    folder.file_of(0).write_bytes(b"\xff\x00")
    assert worker.seen() == 2


def test_a_single_process_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    metrics = Metrics()
    metrics.publish()
    assert not metrics.shared
    assert seen(metrics.families(), "processes") == 1


def test_what_the_dead_left_is_taken_away_and_what_lives_is_not(folder: ServeFolder) -> None:
    left = ServeFolder()
    left._owner.close()  # 死了：锁没了
    ServeFolder().remove()
    assert not left.file_of(0).parent.exists()
    assert folder.file_of(0).parent.exists()


def test_the_first_who_lives_looks_at_what_is_shared(folder: ServeFolder) -> None:
    first, second, third = (Worker(folder, index) for index in range(3))
    for worker in (first, second, third):
        worker.metrics.publish()
    assert [one.metrics.is_first() for one in (first, second, third)] == [True, False, False]
    folder.bury(0)
    assert [one.metrics.is_first() for one in (second, third)] == [True, False]


def test_who_hangs_no_longer_looks_for_the_others(folder: ServeFolder) -> None:
    first, second = Worker(folder, 0), Worker(folder, 1)
    first.metrics.publish()
    hung_at = time.time() - STALE_S - 1
    os.utime(folder.file_of(0), (hung_at, hung_at))
    assert second.metrics.is_first()
    first.metrics.publish()
    assert not second.metrics.is_first()


def test_a_process_alone_looks_itself() -> None:
    assert Metrics().is_first()
