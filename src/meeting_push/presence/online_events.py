"""谁上线、下线了，也是出门的事件：至多一次，被杀、SQL 久不在时丢掉的就没有了。

在不在线由 Redis 的脚本判定，每个转变恰好一个进程得知（``redis/lua/presence_user.lua``）；这里攒成批
写进出门的队列。没有宽限：最后一台设备没了就是下线，马上回来的又是上线。
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Final

from ..clock import Clock, now_ms
from ..errors import MeetingPushError
from ..logs import RepeatedWarning
from ..redis.presence import Turn
from ..storage.database import Database
from ..storage.event_outbox import USER_OFFLINE, USER_ONLINE
from ..supervision import periodically, summoned

#: SQL 不在时攒着这么多，再多就丢最早的。
MOST_KEPT: Final = 10_000
_GATHER_S: Final = 0.05


class OnlineEvents:
    """``note`` 在事件循环上，不等什么；没有人要这两种事件，就什么也不记。"""

    def __init__(self, database: Database, clock: Clock = now_ms) -> None:
        self._database = database
        self._clock = clock
        #: (哪一种, 谁, 何时)
        self._kept: deque[tuple[str, int, int]] = deque(maxlen=MOST_KEPT)
        self._noted = asyncio.Event()
        self._deferred = RepeatedWarning("online_events_deferred")

    def note(self, turns: Sequence[Turn]) -> None:
        events, now = self._database.events, self._clock()
        for user_id, online in turns:
            kind = USER_ONLINE if online else USER_OFFLINE
            if kind in events.wanted:
                self._kept.append((kind, user_id, now))
                self._noted.set()

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        pause = partial(summoned, self._noted, gather_s=_GATHER_S)
        await periodically(self.write, pause, self._deferred)

    async def write(self) -> None:
        """:raises MeetingPushError: SQL 不在；没写下的还攒着"""
        told = list(self._kept)
        if not told:
            return
        events, now = self._database.events, self._clock()
        async with self._database.transaction() as connection:
            # 挨着的同一种合成一行：一个人先上后下，写下的次序也是
            for kind, run in groupby(told, key=itemgetter(0)):
                await events.add(connection, kind, [(user, at) for _, user, at in run], now)
        for _ in told:
            self._kept.popleft()
        events.wake()

    async def close(self) -> None:
        """各循环停下、自己的连接都收拾了之后。"""
        try:
            await self.write()
        except MeetingPushError as error:
            self._deferred.say(code=error.code, cause=error.cause)
