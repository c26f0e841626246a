"""一个进程的指标的快照（一族一族，合得起来，写得成 Prometheus 的文本），与同一个 ``serve`` 的各进程
怎样互相看见：每个进程一个文件，死了的并进一个（决定 0013）。

文件夹由父进程造（0700），在内存里（``/dev/shm``）；不经 Redis 与 SQL：它们不在时正要看。
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeVar

import msgspec

from ..logs import RepeatedWarning, logger

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[tuple[str, str], ...]

#: 一个进程的数有多旧；卡住了的进程，它在涨。
AGE: Final = "meeting_push_process_samples_age_seconds"
PROCESSES: Final = "meeting_push_processes"


class Point(NamedTuple):
    """``suffix``：接在族名后面的，如 ``_total``、``_bucket``。"""

    suffix: str
    labels: Labels
    value: float


class Family(msgspec.Struct):
    """``name`` 是全名，计数器的不带 ``_total``；``shared``：各进程看着的同一样东西，不相加。"""

    name: str
    kind: Kind
    help: str
    shared: bool = False
    points: list[Point] = []


class Snapshot(msgspec.Struct):
    """一个进程的一刻。``life`` 每起一个进程一个；``process`` 是它的位置，换了进程仍是它；
    ``at`` 是写下的时刻（Unix 秒），死了的那些的和没有。"""

    life: str
    process: str
    at: float | None
    families: list[Family]


def merged(parts: Sequence[Snapshot]) -> list[Family]:
    """各进程的合成一个：``shared`` 的听最新的，其余按标签相加。"""
    result: dict[str, Family] = {}
    sums: dict[str, dict[tuple[str, Labels], float]] = {}
    newest: dict[str, float] = {}
    for part in sorted(parts, key=lambda one: one.process):
        for family in part.families:
            name, at = family.name, part.at or 0
            if family.shared and at < newest.get(name, 0):
                continue
            if name not in result or family.shared:
                result[name] = Family(name, family.kind, family.help, family.shared)
                sums[name], newest[name] = {}, at
            _add(sums[name], family.points)
    for name, points in sums.items():
        result[name].points = [Point(*key, value) for key, value in points.items()]
    return [*result.values(), *_about(parts)]


def _add(sums: dict[tuple[str, Labels], float], points: Iterable[Point]) -> None:
    for suffix, labels, value in points:
        key = (suffix, labels)
        sums[key] = sums.get(key, 0) + value


def _about(parts: Sequence[Snapshot]) -> Iterator[Family]:
    now = time.time()
    ages = [
        Point("", (("process", part.process),), max(0.0, now - part.at))
        for part in parts
        if part.at is not None
    ]
    yield Family(AGE, "gauge", "age of the figures of this process", points=ages)
    alive = [Point("", (), len(ages))]
    yield Family(PROCESSES, "gauge", "processes of this serve that are alive", points=alive)


def only_counted(families: Iterable[Family]) -> list[Family]:
    """死了的进程留下的：计数与直方图；它的量随它去了。"""
    return [each for each in families if each.kind != "gauge"]


_ESCAPED: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def text(families: Iterable[Family]) -> bytes:
    """Prometheus 的文本格式；自己写：``prometheus_client`` 的慢八倍，一次占住循环十几毫秒。"""
    return "".join(_lines(families)).encode()


def _lines(families: Iterable[Family]) -> Iterator[str]:
    for family in families:
        name = family.name
        shown = f"{name}_total" if family.kind == "counter" else name
        yield f"# HELP {shown} {family.help}\n# TYPE {shown} {family.kind}\n"
        for suffix, labels, value in family.points:
            inside = ",".join([f'{key}="{_escaped(each)}"' for key, each in labels])
            braces = f"{{{inside}}}" if inside else ""
            # 相加的次序换了，最后一位就可能小一点：那会被当成计数器倒退
            yield f"{name}{suffix}{braces} {_number(round(float(value), 6))}\n"


def _escaped(value: str) -> str:
    return value if value.isalnum() else value.translate(_ESCAPED)


def _number(value: float) -> str:
    return "+Inf" if value == inf else repr(value)


#: 隔多久写一遍；契约是 5 秒之内。
EVERY_S: Final = 1.0
#: 这么久没有写，就当它卡住了。
STALE_S: Final = 3.0
DEPARTED: Final = "departed"
_PREFIX: Final = "meeting-push-metrics-"
_OWNER: Final = "owner"
_IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 — 里面只有自己的 0700 文件夹

_decoder: Final = msgspec.msgpack.Decoder(Snapshot)


class Departed(msgspec.Struct):
    """死了的进程留下的计数之和；``lives``：位置 → 已经并进来的最后一个。"""

    lives: dict[str, str]
    total: Snapshot


_departed_decoder: Final = msgspec.msgpack.Decoder(Departed)

Read = TypeVar("Read")
_unreadable: Final = RepeatedWarning("metrics_not_read")


class ServeFiles:
    """一个子进程手里的；``mine`` 是它自己的文件，名字就是它的位置。"""

    def __init__(self, mine: Path) -> None:
        self._mine = mine
        self.process = mine.name
        self._failed = RepeatedWarning("metrics_not_written")

    def write(self, snapshot: Snapshot) -> None:
        """原子地换上新的；写不成只说一声：别的进程看到的旧一点。"""
        try:
            _replace(self._mine, msgspec.msgpack.encode(snapshot))
        except OSError as error:
            self._failed.say(reason=error.strerror)

    def is_first(self) -> bool:
        """活着的里面位置最前的是我：大家看着的同一样东西由我去看。

        ``STALE_S`` 之内写过的算活着；死了的，父进程随即拿走它的文件。
        """
        me = int(self.process)
        before = [one for one in _listed(self._mine.parent) if one.name.isdigit()]
        return not any(_is_fresh(one) for one in before if int(one.name) < me)

    def read(self) -> list[Snapshot]:
        """每个活着的最后写下的，加上死了的。

        先读各人的，后读死了的：其间有谁死了、被并了进去，由 ``lives`` 认出，不会数两遍，也不会漏。
        """
        folder = self._mine.parent
        names = [path for path in _listed(folder) if path.name.isdigit()]
        alive = [one for path in names if (one := _read(path, _decoder.decode))]
        departed = _read(folder / DEPARTED, _departed_decoder.decode)
        if departed is None:
            return alive
        lives = departed.lives
        return [*(one for one in alive if lives.get(one.process) != one.life), departed.total]


class ServeFolder:
    """父进程手里的：造文件夹，收拾死了的。

    它锁着里面的 ``owner`` 直到死；``kill -9`` 留下的，由下一个起来的拿走。
    """

    def __init__(self) -> None:
        writable = os.access(_IN_MEMORY, os.W_OK | os.X_OK)
        where = _IN_MEMORY if writable else Path(tempfile.gettempdir())
        for left in where.glob(f"{_PREFIX}*"):
            _remove_if_left(left)
        self._path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=where))
        self._owner = (self._path / f"{_OWNER}.new").open("wb")
        fcntl.flock(self._owner, fcntl.LOCK_EX)
        (self._path / f"{_OWNER}.new").rename(self._path / _OWNER)  # 锁着的才叫这个名字
        self._lives: dict[str, str] = {}
        self._total = Snapshot("", DEPARTED, None, [])

    def file_of(self, index: int) -> Path:
        return self._path / str(index)

    def bury(self, index: int) -> None:
        """这个位置上的进程死了：把它的计数并进死了的，再拿走它的文件。"""
        path = self.file_of(index)
        last = _read(path, _decoder.decode)
        if last is None:  # 还没写过就死了
            return
        families = only_counted(merged([self._total, last]))
        self._total = Snapshot("", DEPARTED, None, families)
        self._lives[last.process] = last.life
        departed = msgspec.msgpack.encode(Departed(self._lives, self._total))
        try:
            _replace(self._path / DEPARTED, departed)
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.bind(reason=error.strerror).warning("metrics_not_written")

    def remove(self) -> None:
        self._owner.close()
        shutil.rmtree(self._path, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    """没有人锁着的：主人已经没了。别人的（没有权限）不动。"""
    try:
        with (folder / _OWNER).open("rb") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return


def _replace(path: Path, data: bytes) -> None:
    """一步换上：读的人看到旧的或新的，没有半个。"""
    beside = path.with_name(f"{path.name}.new")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    beside.replace(path)


def _is_fresh(path: Path) -> bool:
    try:
        return abs(time.time() - path.stat().st_mtime) < STALE_S
    except OSError:  # 刚被拿走
        return False


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _read(path: Path, decode: Callable[[bytes], Read]) -> Read | None:
    try:
        return decode(path.read_bytes())
    except OSError:  # 还没写过；刚被拿走
        return None
    except msgspec.DecodeError as error:
        _unreadable.say(file=path.name, reason=str(error))
        return None
