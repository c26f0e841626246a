"""广播的发件箱中继：把已提交的广播记进 ``broadcast_log`` 并发布。

``logged_at IS NULL`` 的行就是发件箱；任何进程都会扫到任何一条，记日志按 id 幂等，所以
进程死在提交与记日志之间也只送一次。
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from loguru import logger

from ..clock import Clock, now_ms
from ..deliver.offline_message_queue import OfflineMessageQueue
from ..logs import RepeatedWarning
from ..model import Message
from ..protocol.frames import encode_tail
from ..redis.broadcast_log import BroadcastLog
from ..storage.broadcasts import BroadcastRepository
from ..supervision import Aside, periodically

BATCH_MESSAGES: Final = 100


class BroadcastRelay:
    """``interval_s``：多久扫一遍别的进程留下的与预约到时的。"""

    def __init__(
        self,
        record: BroadcastRepository,
        log: BroadcastLog,
        mailbox: OfflineMessageQueue,
        *,
        interval_s: float,
        aside: Aside | None = None,
        clock: Clock = now_ms,
    ) -> None:
        self._record = record
        self._log = log
        self._mailbox = mailbox
        self._interval_s = interval_s
        self._aside = aside or Aside("broadcast-outbox")
        self._clock = clock
        self._wake = asyncio.Event()
        self._deferred = RepeatedWarning("broadcast_deferred")

    def wake(self) -> None:
        """刚提交了一条：马上扫，不等间隔。"""
        self._wake.set()

    async def run(self) -> None:
        await periodically(self.sweep, self._pause, self._deferred)

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), self._interval_s)
        except TimeoutError:
            return
        self._wake.clear()

    async def sweep(self) -> int:
        """送出全部到时的，返回条数。"""
        swept = 0
        while batch := await self._record.outbox(self._clock(), BATCH_MESSAGES):
            await self._send(batch)
            await self._record.mark_logged([m.message_id for m in batch], self._clock())
            swept += len(batch)
            logger.bind(broadcasts=len(batch)).info("broadcasts_logged")
        return swept

    async def _send(self, batch: Sequence[Message]) -> None:
        now = self._clock()
        live: list[tuple[Message, bytes]] = []

        async def encode(items: Sequence[Message]) -> None:
            live.extend([(message, encode_tail(message)) for message in items])

        # 做不出正文的不送（随这一批移出 outbox）；Redis 的错不是哪一条的，照样抛出
        await self._aside.isolate(
            [message for message in batch if message.expires_at > now],
            encode,
            lambda message: message.message_id,
        )
        await self._mailbox.store_bodies(
            [(m.message_id, tail, m.priority, m.expires_at) for m, tail in live]
        )
        for message, tail in live:
            await self._log.append(
                message.message_id,
                tail,
                priority=message.priority,
                expires_at=message.expires_at,
                now=now,
            )
