"""拒绝的步调：一再被拒绝的，回答晚些给；撞门的因此转不快，做成了的谁也不等。"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from .keyed_rate import KeyedBuckets
from .rate import TokenBucket

PER_S: Final = 50
BURST: Final = 300
#: 至多等这么久（contract：5 秒之内回答并关上），至少一半。
DELAY_S: Final = 4.0
#: 黄金分割：相继的几个等得各不相同，一起来的几百个不会一起再来。
_GOLDEN: Final = 0.618
#: 一个 ``DELAY_S`` 里至多让这么多个开始等：等着的每个占着一个描述符与几 KB。
MOST_WAITING: Final = 1_000


class RefusalPace:
    """每扇门问同一个：键是证明了自己的人，还不知道是谁就是地址；只有拒绝才问。"""

    def __init__(
        self,
        per_s: float = PER_S,
        burst: int = BURST,
        delay_s: float = DELAY_S,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self._free = KeyedBuckets(per_s, burst, exact=True)
        self._delay_s = delay_s
        self._turn = 0.0
        self._places = TokenBucket(most_waiting / delay_s, 0, most_waiting, exact=True)

    def delay_s(self, key: Hashable, now_s: float) -> float:
        """又拒绝了他一次：这个回答该等多久再给。等着的已经太多，就不等。"""
        now = int(now_s * 1000)
        if self._free.take(key, now) or not self._places.take(1, now):
            return 0.0
        self._turn = (self._turn + _GOLDEN) % 1
        return self._delay_s * (1 - self._turn / 2)
