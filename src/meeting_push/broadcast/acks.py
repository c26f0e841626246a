"""广播的确认：先记录，后推进游标；成批。

广播不占 seq，不在会话的未确认表里，所以它的确认总走“核实”这条路，在这里认出来；
其余的原样交给私信的确认。
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..contracts import AckSink
from ..model import Ack, AckOutcome, BroadcastEntry
from ..outcome.batch_writer import BatchWriter
from ..redis.broadcast_log import BroadcastLog
from ..storage.broadcasts import BroadcastRepository
from ..supervision import Aside
from .feed import BroadcastFeed

#: 一批至多这么多行，同 ``delivery_confirmation_service``。
BATCH_ROWS: Final = 2_000

#: (user_id, 广播, 确认的时刻)
_Row = tuple[int, BroadcastEntry, int]


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
        aside: Aside | None = None,
    ) -> None:
        self._inner = inner
        self._feed = feed
        self._log = log
        self._record = record
        self._writer = BatchWriter[_Row](
            self._write,
            rows_name="acks",
            deferred="broadcast_ack_flush_deferred",
            batch_rows=BATCH_ROWS,
            aside=aside or Aside("broadcast-confirm"),
            flush_s=flush_ms / 1000,
        )

    def record(self, user_id: int, acks: Sequence[Ack]) -> None:
        self._inner.record(user_id, acks)

    async def confirm(self, user_id: int, message_ids: Sequence[str], now: int) -> AckOutcome:
        """任何人都可以确认没过期的广播：它本就是发给所有人的。"""
        found = {i: entry for i in message_ids if (entry := self._feed.find(i)) is not None}
        self._writer.add((user_id, entry, now) for entry in found.values())
        rest = [message_id for message_id in message_ids if message_id not in found]
        if not rest:
            return AckOutcome(len(found))
        outcome = await self._inner.confirm(user_id, rest, now)
        return AckOutcome(len(found) + outcome.accepted, outcome.unknown)

    async def run(self) -> None:
        """写入循环，见 ``BatchWriter``。"""
        await self._writer.run()

    async def drain(self, timeout_s: float) -> None:
        """等已登记的全部写完（关机时）；超时就放手，下次连接会再推。"""
        await self._writer.drain(timeout_s, "broadcast_acks_left_at_shutdown")

    async def _write(self, batch: Sequence[_Row]) -> None:
        await self._record.record_delivered([(e.message_id, u, at) for u, e, at in batch])
        await self._log.advance([(u, e.broadcast_id, e.previous) for u, e, _ in batch])
