"""Prometheus 指标：抓取时才去取各部分的统计快照，热路径上没有计数器对象。

各部分的统计译成指标在 ``*_samples.py``，指标的名字都在那里。
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, TypeVar
from uuid import uuid4

from ..histogram import Histogram
from ..limits.rate import TokenBucket
from ..supervision import periodically
from .latency import LatencyHistogram
from .snapshots import EVERY_S, Family, Point, ServeFiles, Snapshot, merged, text

PREFIX: Final = "meeting_push_"
#: 延迟直方图的桶（毫秒）。
BUCKETS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 60_000)
#: ``/metrics`` 每秒至多现做几页，攒着几页；一页约十毫秒的 CPU，谁都能要。
_PAGES_PER_S: Final = 2
_PAGES_BURST: Final = 10
#: 一个进程的量：按 ``process`` 分；大家看着的同一样东西：谁新听谁的；其余相加。
Scope = Literal["sum", "process", "shared"]


@dataclass(frozen=True, slots=True)
class Sample:
    """一个指标的一个值；名字不带前缀，计数器不带 ``_total``。"""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)
    scope: Scope = "sum"


@dataclass(frozen=True, slots=True)
class HistogramSample:
    """一个直方图；名字带单位，不带前缀。各进程的相加。"""

    name: str
    help: str
    histogram: Histogram
    labels: dict[str, str] = field(default_factory=dict)


#: 各部分交来的快照函数。
Source = Callable[[], Iterable[Sample]]
HistogramSource = Callable[[], Iterable[HistogramSample]]
FamilySource = Callable[[], Iterable[Family]]
Key = TypeVar("Key", str, int)


def counted(
    name: str, text: str, label: str, counts: Mapping[Key, int], known: Iterable[Key]
) -> Iterator[Sample]:
    """按标签分的计数器；``known`` 里还没发生过的是 0。"""
    for value, count in {**dict.fromkeys(known, 0), **counts}.items():
        yield Sample(name, "counter", text, count, {label: str(value)})


class Metrics:
    """每个 ``MeetingPush`` 一个，不用全局的注册表：一个进程里可以有两个应用。

    ``files``：同一个 ``serve`` 的别的进程；有它时抓一个进程看见全体（决定 0013）。
    """

    #: 文本格式 1.0.0，同 prometheus_client 的。
    content_type: Final = "text/plain; version=1.0.0; charset=utf-8"

    def __init__(self, files: ServeFiles | None = None) -> None:
        self._sources: list[Source] = []
        self._histograms: list[HistogramSource] = []
        self._families: list[FamilySource] = []
        #: 名字 → (说明, 直方图)；值是毫秒，一直累积。
        self.latencies: dict[str, tuple[str, LatencyHistogram]] = {}
        self._files = files
        #: 有别的进程要看，就要写：``run`` 须由监督者一直运行。
        self.shared = files is not None
        self._process = files.process if files else "0"
        self._life = uuid4().hex
        self._page = b""
        self._turns = TokenBucket(_PAGES_PER_S, _now_ms(), _PAGES_BURST)

    def add(self, source: Source) -> None:
        self._sources.append(source)

    def add_histograms(self, source: HistogramSource) -> None:
        self._histograms.append(source)

    def add_families(self, source: FamilySource) -> None:
        """名字是全名的（``process_*``）；都是一个进程的量。"""
        self._families.append(source)

    def add_latency(self, name: str, help_text: str, histogram: LatencyHistogram) -> None:
        """``name`` 不带单位；指标叫 ``<name>_latency_seconds``。"""
        self.latencies[name] = (help_text, histogram)

    # ── 这个进程的 ──────────────────────────────────────────────────────────

    def samples(self) -> Iterator[Sample]:
        for source in self._sources:
            yield from source()

    def snapshot(self) -> Snapshot:
        """此刻的全部，给别的进程看得懂的样子。"""
        return Snapshot(self._life, self._process, time.time(), list(self._own()))

    def _own(self) -> Iterator[Family]:
        families: dict[str, Family] = {}
        for sample in self.samples():
            family = families.get(sample.name)
            if family is None:
                name, shared = PREFIX + sample.name, sample.scope == "shared"
                family = families[sample.name] = Family(name, sample.kind, sample.help, shared)
            labels = tuple(sample.labels.items())
            if sample.scope == "process":
                labels = (*labels, ("process", self._process))
            suffix = "_total" if sample.kind == "counter" else ""
            family.points.append(Point(suffix, labels, float(sample.value)))
        yield from families.values()
        yield from self._own_histograms()
        yield from self._own_families()

    def _own_histograms(self) -> Iterator[Family]:
        for name, (help_text, histogram) in self.latencies.items():
            yield _latency_family(name, help_text, histogram)
        families: dict[str, Family] = {}
        for source in self._histograms:
            for one in source():
                if (family := families.get(one.name)) is None:
                    family = Family(PREFIX + one.name, "histogram", one.help)
                    families[one.name] = family
                family.points += _buckets(one)
        yield from families.values()

    def _own_families(self) -> Iterator[Family]:
        mine = (("process", self._process),)
        for source in self._families:
            for family in source():
                family.points = [Point(one.suffix, mine, one.value) for one in family.points]
                yield family

    # ── 这个 serve 的 ────────────────────────────────────────────────────────

    def is_first(self) -> bool:
        """这个 serve 里由我去看大家看着的；只有一个进程就是它。"""
        return self._files is None or self._files.is_first()

    def publish(self) -> None:
        """写下此刻的，给同一个 ``serve`` 的别的进程；只有一个进程则无事。"""
        if self._files is not None:
            self._files.write(self.snapshot())

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.publish, partial(asyncio.sleep, EVERY_S))

    def families(self) -> list[Family]:
        """同一个 ``serve`` 的全部进程的。有几个进程时先写下自己的，再只看写下的：无论问谁，
        说出去的都已经写下，计数不会倒退。"""
        own = self.snapshot()
        if self._files is None:
            return merged([own])
        self._files.write(own)
        written = self._files.read()
        mine = any(one.life == self._life for one in written)
        return merged(written if mine else [*written, own])  # 写不成的还说得出自己

    def render(self) -> bytes:
        return text(self.families())

    def page(self) -> bytes:
        """给外人的：问得太勤的得到至多半秒以前的那一页，占不住事件循环。"""
        if not self._page or self._turns.take(1, _now_ms()):
            self._page = self.render()
        return self._page


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _latency_family(name: str, help_text: str, histogram: LatencyHistogram) -> Family:
    counts = [*histogram.at_most(BUCKETS_MS), histogram.count]
    help_text += "; a sample, at most one a millisecond: _count is not how many there were"
    bounds = [*(str(ms / 1000) for ms in BUCKETS_MS), "+Inf"]
    points = _cumulative((), bounds, counts, histogram.total() / 1000)
    return Family(f"{PREFIX}{name}_latency_seconds", "histogram", help_text, points=points)


def _buckets(one: HistogramSample) -> list[Point]:
    histogram, labels = one.histogram, tuple(one.labels.items())
    bounds = [*map(str, histogram.bounds), "+Inf"]
    return _cumulative(labels, bounds, histogram.cumulative(), histogram.total)


def _cumulative(
    labels: tuple[tuple[str, str], ...], bounds: list[str], counts: list[int], total: float
) -> list[Point]:
    buckets = [
        Point("_bucket", (*labels, ("le", bound)), count)
        for bound, count in zip(bounds, counts, strict=True)
    ]
    return [*buckets, Point("_count", labels, counts[-1]), Point("_sum", labels, total)]
