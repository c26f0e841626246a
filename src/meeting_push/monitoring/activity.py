"""用户活跃度：谁来过，发了多少、收到多少；攒着，隔几秒一批写进 Redis，不在谁的路上。

来过：连着，或确认了什么。一直连着的人每进一格只写一次（见 ``redis/time_slots.py``）。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from ..clock import Clock, now_ms
from ..logs import RepeatedWarning
from ..redis.time_slots import USER_GRAINS, ActivityStore, Grain, HourTraffic
from ..supervision import periodically

EVERY_S: Final = 10.0
#: ``GET /stats`` 里最近几个小时。
HOURS: Final = 24


class Activity:
    """``came``：上次取走之后来过的（取走即清）；``online``：此刻连着的。``sent``、``received``
    从进程启动起只增。``run`` 须由监督者一直运行。"""

    def __init__(
        self,
        store: ActivityStore,
        *,
        came: Callable[[], set[int]],
        online: Callable[[], Iterable[int]],
        sent: Callable[[], int],
        received: Callable[[], int],
        clock: Clock = now_ms,
    ) -> None:
        self._store = store
        self._came = came
        self._online = online
        self._sent = sent
        self._received = received
        self._clock = clock
        self._unsaid: set[int] = set()
        #: 连着的人已写进哪一格。
        self._slots: dict[Grain, int] = {}
        self._told = (0, 0)
        self._deferred = RepeatedWarning("activity_deferred")

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.step, partial(asyncio.sleep, EVERY_S), self._deferred)

    async def step(self) -> None:
        """写一批。

        :raises RedisUnavailableError: 没有写的下次再写
        """
        now = self._clock()
        self._unsaid |= self._came()
        if self._unsaid:
            await self._store.note_users(sorted(self._unsaid), USER_GRAINS, now)
            self._unsaid.clear()
        entered = [each for each in USER_GRAINS if self._slots.get(each) != now // each.width_ms]
        if entered:
            await self._store.note_users(list(self._online()), entered, now)
            self._slots.update({each: now // each.width_ms for each in entered})
        sent, received = self._sent(), self._received()
        if (sent, received) != self._told:
            before = self._told
            await self._store.note_traffic(sent - before[0], received - before[1], now)
            self._told = sent, received

    async def read(self) -> tuple[dict[str, int], list[HourTraffic]]:
        """此刻的：各窗口来过的人数，最近各小时。"""
        return await self.active(), await self._store.traffic(HOURS, self._clock())

    async def active(self) -> dict[str, int]:
        """各窗口里来过的人数。"""
        return await self._store.active(self._clock())
