"""大家的钟：我们的、Redis 的、SQL 的。我们的钟错了，跟着大家走；收不回来的事只在大家一致时做。

两次核对之间按单调时钟走：墙上的钟被拨、被跳，这里都不动（E4：快一小时的钟把活着的消息记为过期）。
"""

from __future__ import annotations

import asyncio
from functools import partial
from statistics import median_low
from time import monotonic_ns
from typing import Final

from ..clock import Clock, now_ms
from ..errors import UnavailableError
from ..logs import RepeatedWarning
from ..redis.redis_service import RedisService
from ..storage.database import Database
from ..supervision import periodically

CHECK_EVERY_S: Final = 5.0
#: 差这么多以内就用我们自己的：读一次别人的钟，误差是半个往返。
CLOSE_MS: Final = 2_000
#: 差到这么多就不一致：收不回来的事不做（合群也以此为界）。
DISAGREE_MS: Final = 30_000
#: 往返比这还久的不作数：不知道它读的是哪一刻。
MAX_ROUND_TRIP_MS: Final = 2_000
#: 与别人差多少，多久说一次。
TELL_EVERY_S: Final = 60.0


class ClockDisagreesError(UnavailableError):
    """我们的钟与 Redis、SQL 的对不上：不知道谁对，收不回来的事等对上了再做。"""

    code = "clock_disagrees"


class AgreedClock:
    """当作 ``Clock`` 用：``clock()`` 是此刻的毫秒，同步、便宜；``run`` 由监督者一直运行。"""

    def __init__(self, redis: RedisService, database: Database, wall: Clock = now_ms) -> None:
        self._redis = redis
        self._database = database
        self._wall = wall
        self._ahead_of_monotonic = wall() - _monotonic_ms()
        self._deferred = RepeatedWarning("clock_not_checked")
        self._disagrees = RepeatedWarning("clock_disagrees", every_s=TELL_EVERY_S)
        #: 墙上的钟比大家的快多少；负的是慢。
        self.skew_ms = 0

    def __call__(self) -> int:
        return monotonic_ns() // 1_000_000 + self._ahead_of_monotonic  # 热路：每帧一次

    async def run(self) -> None:
        await periodically(self.check, partial(asyncio.sleep, CHECK_EVERY_S), self._deferred)

    async def agreed(self) -> int:
        """此刻，给收不回来的事用：各家的钟里最慢的那个，谁都说已经过了的才算过。

        :raises ClockDisagreesError: 我们的与别家的差太多
        :raises UnavailableError: 此刻问不到
        """
        slowest = await self.check()
        if abs(self.skew_ms) > DISAGREE_MS:
            raise ClockDisagreesError(
                f"this node's clock is {self.skew_ms // 1000} s ahead of the others", cause="clock"
            )
        return slowest

    async def check(self) -> int:
        """核对一遍，调整；返回各家里最慢的。

        :raises UnavailableError: 问不到；照原来的走
        """
        others = await self._others()
        started, ours = _monotonic_ms(), self._wall()
        known = [ours, *(started + ahead for ahead in others)]
        # 三家取中间的；只有两家而说不到一起，分不出谁对，走慢的：什么也不会早
        agreed = median_low(known)
        self.skew_ms = ours - (agreed if len(others) > 1 else known[-1])
        self._ahead_of_monotonic = (agreed if abs(self.skew_ms) > CLOSE_MS else ours) - started
        if abs(self.skew_ms) > CLOSE_MS:
            self._disagrees.say(skew_ms=self.skew_ms)
        return min(known)

    async def _others(self) -> list[int]:
        """问得到的各家，比我们的单调时钟快多少。"""
        asked = await asyncio.gather(self._of_redis(), self._of_sql(), return_exceptions=True)
        found = [one for one in asked if isinstance(one, int)]
        if not found and (errors := [one for one in asked if isinstance(one, BaseException)]):
            raise errors[0]
        return found

    async def _of_redis(self) -> int | None:
        asked = _monotonic_ms()
        return _ahead(await self._redis.time_ms(), asked)

    async def _of_sql(self) -> int | None:
        """SQLite 没有自己的钟。"""
        asked = _monotonic_ms()
        now = await self._database.time_ms()
        return None if now is None else _ahead(now, asked)


def _ahead(told: int, asked: int) -> int | None:
    """别家的钟比我们的单调时钟快多少；等得太久的不作数。"""
    answered = _monotonic_ms()
    if answered - asked > MAX_ROUND_TRIP_MS:
        return None
    return told - (asked + answered) // 2


def _monotonic_ms() -> int:
    return monotonic_ns() // 1_000_000
