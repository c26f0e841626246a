"""一段延迟的几个数字。"""

from __future__ import annotations

from typing import Self

import msgspec

from meeting_push.monitoring.latency import LatencyHistogram


class LatencyFigures(msgspec.Struct, frozen=True, kw_only=True):
    """毫秒；``count`` 为 0 时都是 0。"""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, latency: LatencyHistogram) -> Self:
        count = latency.count
        p50, p95, p99, worst = (
            latency.percentile(percent) / 1000 if count else 0.0 for percent in (50, 95, 99, 100)
        )
        return cls(count=count, p50_ms=p50, p95_ms=p95, p99_ms=p99, max_ms=worst)
