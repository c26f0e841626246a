"""耐久消息的到达：一段测量里收到了几条，各用了多久；延迟的几个数字。"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Self

import msgspec

from meeting_push.monitoring.latency import LatencyHistogram

from .failure import BenchError

#: 全部发出之后，最后几条到达的期限。
GRACE_S: Final = 10.0
_POLL_S: Final = 0.01


class Arrivals:
    """``start`` 之前发出的不算：上一段测量留下的，可能因重连而再来一次（至少一次）。"""

    def __init__(self) -> None:
        self.latency = LatencyHistogram()
        self._since_ns = time.monotonic_ns()

    def start(self) -> None:
        self.latency.counts.clear()
        self._since_ns = time.monotonic_ns()

    def note(self, sent_at_ns: int, now_ns: int) -> None:
        if sent_at_ns >= self._since_ns:
            self.latency.record((now_ns - sent_at_ns) // 1000)

    async def wait(self, total: int) -> None:
        """:raises BenchError: 期限内没有到齐"""
        deadline = time.monotonic() + GRACE_S
        while (arrived := self.latency.count) < total:
            if time.monotonic() > deadline:
                raise BenchError(f"{total - arrived} of {total} messages did not arrive")
            await asyncio.sleep(_POLL_S)


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
