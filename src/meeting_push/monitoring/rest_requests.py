"""REST 的请求：按路由的模板、状态的类，多久；拒绝了多少，为什么。

不认识的路径合用一个，标签不会越来越多；拒绝的每个码一个计数器，一分钟一行日志（E12）。
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from ..histogram import Histogram
from ..logs import RepeatedWarning
from .metrics import HistogramSample, Sample, counted

_CLASSES: Final = ("2xx", "4xx", "5xx")
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: 没有这样的路径。
UNKNOWN: Final = "unknown"
#: 从启动起就有 0 的。
CODES: Final = (
    "invalid_input",
    "unauthenticated",
    "invalid_token",
    "token_expired",
    "bad_credentials",
    "bad_key",
    "forbidden",
    "not_found",
    "payload_too_large",
    "rate_limited",
    "queue_full",
    "redis_unavailable",
    "database_unavailable",
    "outcome_unknown",
)
#: 码是我们定的，本就不多；意外之外的合用一个。
_MAX_CODES: Final = 100


class RouteRequests:
    """一条路由的：从启动起就有 0；答的人记（``router.contract_route.count``）。"""

    def __init__(self, method: str, route: str) -> None:
        self.labels: Final = {"method": method, "route": route}
        self.statuses: Counter[str] = Counter(dict.fromkeys(_CLASSES, 0))
        self.durations = Histogram(_SECONDS)


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


class RefusedRequests:
    """一个进程一个；``counts`` 只增。"""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._warnings: dict[str, RepeatedWarning] = {}

    def note(self, status: int, code: str) -> None:
        if code not in self._warnings:
            if len(self._warnings) >= _MAX_CODES:
                code = "others"
            # 429 与 5xx 是运维的事；其余多半是客户端自己的
            level = "WARNING" if status == 429 or status >= 500 else "INFO"
            context = {"code": code, "status": status}
            self._warnings.setdefault(
                code, RepeatedWarning("requests_refused", level=level, context=context)
            )
        self.counts[code] += 1
        self._warnings[code].say()

    def samples(self) -> Iterator[Sample]:
        text = "REST requests answered with an error"
        yield from counted("requests_refused", text, "code", self.counts, CODES)
