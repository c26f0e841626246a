"""Redis 丢了数据之后的广播：日志、游标都从记录（SQL）重建。

丢了的放回发件箱，由中继再记一遍，得到新的号；各人确认过哪些，从 ``broadcast_receipts`` 补回游标。
每一步都可重做：死在放回与记日志之间，它们还在发件箱里；死在补游标的途中，从头再补。
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from ..broadcast.service import BroadcastRelay
from ..clock import Clock, now_ms
from ..logs import logger
from ..model import BroadcastEntry
from ..redis.broadcast_log import BroadcastLog
from ..storage.broadcasts import BroadcastRepository

#: 一次补这么多人的游标，之间歇一歇，同 ``reconciler`` 的一页。
PAGE_USERS: Final = 2_000
PAGE_PAUSE_S: Final = 0.02

#: 还轮得到我做吗（续租）；False 就停手。
Keep = Callable[[], Awaitable[bool]]


class BroadcastRecovery:
    """给对账者用；错误是 ``UnavailableError``、``RedisCommandError``，重来无害。"""

    def __init__(
        self,
        record: BroadcastRepository,
        log: BroadcastLog,
        relay: BroadcastRelay,
        *,
        clock: Clock = now_ms,
    ) -> None:
        self._record = record
        self._log = log
        self._relay = relay
        self._clock = clock

    async def lost(self, since: int = 0) -> list[str]:
        """``since`` 之后记过、还没过期，而日志里没有的。"""
        return await self._log.missing(await self._record.logged(since, self._clock()))

    async def reopen(self) -> int:
        """丢了的放回发件箱，返回几条。"""
        lost = await self.lost()
        if not lost:
            return 0
        reopened = await self._record.reopen(lost)
        logger.bind(broadcasts=reopened).warning("broadcasts_reopened")
        self._relay.wake()
        return reopened

    async def restore_acks(self, keep: Keep) -> bool:
        """等放回的都记进日志，补回各人的游标；没补完就换了人做则 False。

        补完之前连上的人会再收到确认过的，同一个 ``message_id``。
        """
        await self._relay.sweep()
        for entry in await self._log.entries():
            if not await self._restore(entry, keep):
                return False
        return True

    async def _restore(self, entry: BroadcastEntry, keep: Keep) -> bool:
        after = 0
        while users := await self._record.receivers(entry.message_id, after, PAGE_USERS):
            acked = [(user_id, entry.broadcast_id, entry.previous) for user_id in users]
            await self._log.advance(acked)
            if not await keep():
                return False
            after = users[-1]
            await asyncio.sleep(PAGE_PAUSE_S)
        return True
