"""Prometheus 指标：抓取时才去取各部分的统计快照，热路径上没有计数器对象。"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from .histogram import LatencyHistogram

PREFIX: Final = "meeting_push_"
#: 延迟直方图的桶（毫秒）。
BUCKETS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 60_000)


@dataclass(frozen=True, slots=True)
class Sample:
    """一个指标的一个值；名字不带前缀，计数器不带 ``_total``。"""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)


#: 各部分交来的快照函数。
Source = Callable[[], Iterable[Sample]]


class Metrics(Collector):
    """每个 ``MeetingPush`` 一个注册表，不用全局的：一个进程里可以有两个应用。"""

    content_type: Final = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._sources: list[Source] = []
        #: 名字 → (说明, 直方图)；值是毫秒，一直累积。
        self.latencies: dict[str, tuple[str, LatencyHistogram]] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def add(self, source: Source) -> None:
        self._sources.append(source)

    def add_latency(self, name: str, help_text: str, histogram: LatencyHistogram) -> None:
        """``name`` 不带单位；指标叫 ``<name>_latency_seconds``。"""
        self.latencies[name] = (help_text, histogram)

    def samples(self) -> Iterator[Sample]:
        for source in self._sources:
            yield from source()

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for sample in self.samples():
            family = families.get(sample.name) or _family(sample)
            families[sample.name] = family
            suffix = "_total" if sample.kind == "counter" else ""
            family.add_sample(family.name + suffix, sample.labels, sample.value)
        yield from families.values()
        for name, (help_text, histogram) in self.latencies.items():
            yield _latency_family(name, help_text, histogram)


def _family(sample: Sample) -> Metric:
    name = PREFIX + sample.name
    if sample.kind == "counter":
        return CounterMetricFamily(name, sample.help)
    return GaugeMetricFamily(name, sample.help)


def _latency_family(name: str, help_text: str, histogram: LatencyHistogram) -> Metric:
    counts = histogram.at_most(BUCKETS_MS)
    help_text += "; a sample, at most one a millisecond: _count is not how many there were"
    buckets = [(str(ms / 1000), count) for ms, count in zip(BUCKETS_MS, counts, strict=True)]
    family = HistogramMetricFamily(f"{PREFIX}{name}_latency_seconds", help_text)
    family.add_metric([], [*buckets, ("+Inf", histogram.count)], histogram.total() / 1000)
    return family
