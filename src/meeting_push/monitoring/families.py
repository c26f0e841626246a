"""一族指标与它的各个值：过得了进程的边界，合得起来，写得成 Prometheus 的文本。"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import Final, Literal, NamedTuple

import msgspec

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
