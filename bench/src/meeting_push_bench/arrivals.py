"""耐久消息的到达：一段测量里收到了几条，各用了多久。"""

from __future__ import annotations

import asyncio
import time
from typing import Final

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
