"""每个键（地址、用户）一个令牌桶；内存有上限。"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from .rate import TokenBucket


class KeyedBuckets:
    """每秒 ``per_s``，至多攒下 ``burst``（不少于两秒的量；``exact`` 则恰好这么多）。

    键多于 ``max_keys`` 时忘掉最久没有动静的：宁可少限，也不让攻击者用不断变化的键耗尽内存。
    """

    def __init__(
        self, per_s: float, burst: float, *, max_keys: int = 10_000, exact: bool = False
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._exact = exact
        self._max_keys = max_keys
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def take(self, key: Hashable, now: int, amount: float = 1) -> bool:
        """取 ``amount``；不够则 False，一点也不取。"""
        return self._bucket(key, now).take(amount, now)

    def wait_ms(self, key: Hashable, amount: float, now: int) -> float:
        """同 ``TokenBucket.wait_ms``。"""
        return self._bucket(key, now).wait_ms(amount, now)

    def empty(self, key: Hashable, now: int) -> bool:
        """此刻一个也取不出；不改变什么，没见过的键不留下痕迹。"""
        bucket = self._buckets.get(key)
        return bucket is not None and not bucket.has(1, now)

    def _bucket(self, key: Hashable, now: int) -> TokenBucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(
                self._per_s, now, self._burst, exact=self._exact
            )
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket
