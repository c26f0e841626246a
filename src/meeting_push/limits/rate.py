"""速率：令牌桶，和“窗口里攒够几次”。都不看时钟，``now`` 是毫秒。"""

from __future__ import annotations

#: 桶能攒下几秒的量：识别器会把几句话一起送来。
BURST_S = 2


class TokenBucket:
    """每秒 ``per_s``，突发至多 ``BURST_S`` 秒的量，但不小于 ``smallest``（再大的永远过不去）。

    ``exact``：桶恰好装得下 ``smallest``，不看 ``per_s``。
    """

    __slots__ = ("_at", "_capacity", "_level", "_per_ms")

    def __init__(self, per_s: float, now: int, smallest: float = 1, *, exact: bool = False) -> None:
        self._per_ms = per_s / 1000
        self._capacity = self._level = smallest if exact else max(per_s * BURST_S, smallest)
        self._at = now

    def has(self, amount: float, now: int) -> bool:
        """此刻够不够；不取。"""
        passed = max(0, now - self._at)  # 时钟倒走不扣
        self._at = now
        self._level = min(self._capacity, self._level + passed * self._per_ms)
        return amount <= self._level

    def take(self, amount: float, now: int) -> bool:
        """不够则 False，一点也不取。"""
        enough = self.has(amount, now)
        if enough:
            self._level -= amount
        return enough

    def wait_ms(self, amount: float, now: int) -> float:
        """再过多久就够了；0 = 此刻就够，``inf`` = 桶装不下这么多。不取。"""
        if self.has(amount, now):
            return 0
        if amount > self._capacity:
            return float("inf")
        return (amount - self._level) / self._per_ms


class Strikes:
    """``window_ms`` 里第 ``limit`` 次即满。"""

    __slots__ = ("_limit", "_times", "_window_ms")

    def __init__(self, limit: int, window_ms: int) -> None:
        self._limit = limit
        self._window_ms = window_ms
        self._times: list[int] = []

    def strike(self, now: int) -> bool:
        """记一次；满了则 True。"""
        since = now - self._window_ms
        self._times = [at for at in self._times if at > since]
        self._times.append(now)
        return len(self._times) >= self._limit
