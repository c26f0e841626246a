"""广播的确认：先记录，后推进游标；成批。

广播不占 seq，不在会话的未确认表里，所以它的确认总走“核实”这条路，在这里认出来；
其余的原样交给私信的确认。
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from loguru import logger

from ..contracts import AckSink
from ..errors import MeetingPushError
from ..model import Ack, AckOutcome, BroadcastEntry
from ..redis.broadcast_log import BroadcastLog
from ..storage.broadcasts import BroadcastRepository
from .broadcast_feed import BroadcastFeed

#: 一批至多这么多行，同 ``delivery_confirmation_service``。
BATCH_ROWS: Final = 2_000
RETRY_AFTER_S: Final = 0.5


class BroadcastAcks:
    """实现 ``contracts.AckSink``，包住私信的那一个。

    进程死在 SQL 与游标之间：游标没动，下次连接再推一遍同一个 id，再确认无害。
    """

    def __init__(
        self,
        inner: AckSink,
        feed: BroadcastFeed,
        log: BroadcastLog,
        record: BroadcastRepository,
        *,
        flush_ms: float,
    ) -> None:
        self._inner = inner
        self._feed = feed
        self._log = log
        self._record = record
        self._flush_s = flush_ms / 1000
        self._rows: list[tuple[int, BroadcastEntry, int]] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def record(self, user_id: int, acks: Sequence[Ack]) -> None:
        self._inner.record(user_id, acks)

    async def confirm(self, user_id: int, message_ids: Sequence[str], now: int) -> AckOutcome:
        """任何人都可以确认没过期的广播：它本就是发给所有人的。"""
        found = {i: entry for i in message_ids if (entry := self._feed.find(i)) is not None}
        self._add([(user_id, entry, now) for entry in found.values()])
        rest = [message_id for message_id in message_ids if message_id not in found]
        if not rest:
            return AckOutcome(len(found))
        outcome = await self._inner.confirm(user_id, rest, now)
        return AckOutcome(len(found) + outcome.accepted, outcome.unknown)

    def _add(self, rows: Sequence[tuple[int, BroadcastEntry, int]]) -> None:
        if rows:
            self._rows += rows
            self._idle.clear()
            self._wake.set()

    async def run(self) -> None:
        """写入循环；失败就留着重试，取消时不丢正在写的一批。"""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(self._flush_s)
            while self._rows:
                await self._flush_batch()
            self._idle.set()

    async def drain(self, timeout_s: float) -> None:
        """等已登记的全部写完（关机时）；超时就放手，下次连接会再推。"""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            logger.bind(acks=len(self._rows)).warning("broadcast_acks_left_at_shutdown")

    async def _flush_batch(self) -> None:
        batch = self._rows[:BATCH_ROWS]
        try:
            await self._record.record_delivered([(e.message_id, u, at) for u, e, at in batch])
            await self._log.advance([(u, e.broadcast_id, e.previous) for u, e, _ in batch])
        except MeetingPushError as error:
            logger.bind(code=error.code, acks=len(self._rows)).warning(
                "broadcast_ack_flush_deferred"
            )
            await asyncio.sleep(RETRY_AFTER_S)
            return
        del self._rows[: len(batch)]
