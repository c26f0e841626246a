"""REST 的请求：按路由的模板、状态的类，多久；不认识的路径合用一个，标签不会越来越多。"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..histogram import Histogram
from .metrics import HistogramSample, Sample

_CLASSES: Final = ("2xx", "4xx", "5xx")
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: 没有这样的路径。
UNKNOWN: Final = "unknown"


class Watch:
    """正在办的一个请求；``status`` 由办的人填上。"""

    __slots__ = ("status",)

    def __init__(self) -> None:
        self.status = 500


class RouteRequests:
    """一条路由的：从启动起就有 0。"""

    def __init__(self, method: str, route: str) -> None:
        self.labels: Final = {"method": method, "route": route}
        self.statuses: Counter[str] = Counter(dict.fromkeys(_CLASSES, 0))
        self.durations = Histogram(_SECONDS)

    @contextmanager
    def watched(self) -> Iterator[Watch]:
        """办一个请求；抛出来的就是 500。"""
        watch, began = Watch(), time.perf_counter()
        try:
            yield watch
        finally:
            self.note(watch.status, time.perf_counter() - began)

    def note(self, status: int, seconds: float) -> None:
        self.statuses[f"{status // 100}xx"] += 1
        self.durations.record(seconds)


class RestRequests:
    """一个进程一个；``unknown`` 是没有这样的路径的。"""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], RouteRequests] = {}
        self.unknown = self.of("any", UNKNOWN)

    def of(self, method: str, route: str) -> RouteRequests:
        """同一条路由的共用一个。"""
        method = "GET" if method == "HEAD" else method
        return self._routes.setdefault((method, route), RouteRequests(method, route))

    def samples(self) -> Iterator[Sample]:
        text = "REST requests answered"
        for each in self._routes.values():
            for status, count in each.statuses.items():
                labels = {**each.labels, "status": status}
                yield Sample("http_requests", "counter", text, count, labels)

    def histograms(self) -> Iterator[HistogramSample]:
        name, text = "http_request_duration_seconds", "until the answer is ready"
        for each in self._routes.values():
            if each.durations.count:
                yield HistogramSample(name, text, each.durations, each.labels)
