"""依赖不在的时候：说一次，然后隔一阵再说，带着次数；日志不被同一行淹没。"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from meeting_push.logs import RepeatedWarning
from tests.support.eventually import wait_until
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess


@pytest.fixture
def lines() -> Iterator[list[str]]:
    written: list[str] = []
    sink = logger.add(lambda m: written.append(f"{m.record['message']} {m.record['extra']}"))
    yield written
    logger.remove(sink)


class Watch:
    """拨得动的单调时钟。"""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_first_is_said_at_once_and_the_next_only_after_a_while(lines: list[str]) -> None:
    watch = Watch()
    warning = RepeatedWarning("redis_is_away", every_s=5, clock=watch)
    for _ in range(16):
        warning.say(code="redis_unavailable")
        watch.now += 0.5
    assert lines == [
        "redis_is_away {'code': 'redis_unavailable'}",
        "redis_is_away {'code': 'redis_unavailable', 'repeated': 9}",
    ]


def test_after_a_quiet_while_it_is_a_first_again(lines: list[str]) -> None:
    watch = Watch()
    warning = RepeatedWarning("redis_is_away", every_s=5, clock=watch)
    warning.say()
    watch.now += 1
    warning.say()  # 没有记下，也不该在一小时之后才算
    watch.now += 3_600
    warning.say()
    assert lines == ["redis_is_away {}", "redis_is_away {}"]


def test_two_of_them_do_not_hide_each_other(lines: list[str]) -> None:
    watch = Watch()
    RepeatedWarning("one", clock=watch).say()
    RepeatedWarning("other", clock=watch).say()
    assert lines == ["one {}", "other {}"]


def test_a_server_without_redis_writes_each_warning_once(
    tmp_path: Path, private_redis_server: RedisServer
) -> None:
    with ServerProcess(tmp_path, redis_url=private_redis_server.url) as server:
        before = len(server.output.splitlines())
        private_redis_server.kill()
        wanted = {"consumer_waits", "move_due_failed", "pool_not_adjusted"}
        wait_until(lambda: all(event in server.output for event in wanted), 10)
        time.sleep(3)  # 证明没有第二条：只有时间能证明
        events = Counter(
            words[2]
            for words in (line.split() for line in server.output.splitlines()[before:])
            if len(words) > 2 and words[1] == "WARNING"
        )
        private_redis_server.start()
    assert wanted | {"redis_connection_lost"} <= events.keys()
    assert max(events.values()) == 1
