"""一个负载进程里到达的：总数（共享内存，别的进程随时可读）、延迟、被谁关了。"""

from __future__ import annotations

from collections import Counter

from meeting_push.monitoring.latency import LatencyHistogram

from .orders import Seen


class Tally:
    """实现 ``device.Notes``。"""

    def __init__(self, slot: memoryview) -> None:
        """:param slot: 一格 64 位计数，只由这里写"""
        self.slot = slot
        self._latency = LatencyHistogram()
        self._closes: Counter[str] = Counter()

    def note(self, sent_at_ns: int, now_ns: int) -> None:
        self.slot[0] += 1
        # 各进程的单调时钟是同一个，但读它与写它之间可差几百纳秒
        self._latency.record(max(0, now_ns - sent_at_ns) // 1000)

    def lost(self, reason: str) -> None:
        """服务器（或网络）断开了一条我们没有要断的连接。"""
        self._closes[reason] += 1

    def seen(self, sockets: int) -> Seen:
        """看一眼，并从头记起。"""
        latency, self._latency = self._latency, LatencyHistogram()
        closes, self._closes = self._closes, Counter()
        received: int = self.slot[0]
        return Seen(sockets=sockets, received=received, latency=latency, closes=dict(closes))
