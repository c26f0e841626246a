"""Prometheus 指标：抓取时才去取各部分的统计快照，热路径上没有计数器对象。"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

PREFIX: Final = "meeting_push_"


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
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def add(self, source: Source) -> None:
        self._sources.append(source)

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for source in self._sources:
            for sample in source():
                family = families.get(sample.name) or _family(sample)
                families[sample.name] = family
                suffix = "_total" if sample.kind == "counter" else ""
                family.add_sample(family.name + suffix, sample.labels, sample.value)
        yield from families.values()


def _family(sample: Sample) -> Metric:
    name = PREFIX + sample.name
    if sample.kind == "counter":
        return CounterMetricFamily(name, sample.help)
    return GaugeMetricFamily(name, sample.help)
