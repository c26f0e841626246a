"""本节点所见的广播日志：一份内存里的目录（没有正文），连接时不必为每个人读一遍日志。

广播的确认：先记录，后推进游标；成批。

广播不占 seq，不在会话的未确认表里，所以它的确认总走“核实”这条路，在这里认出来；
其余的原样交给私信的确认。
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final

import msgspec

from ..clock import Clock, now_ms
from ..contracts import AckSink, Arrival
from ..deliver.offline_message_queue import OfflineMessageQueue
from ..errors import DatabaseUnavailableError
from ..logs import RepeatedWarning, logger
from ..model import AckOutcome, BroadcastEntry, BroadcastView
from ..outcome.batch_writer import BatchWriter
from ..protocol.envelope import BroadcastId, broadcast_message
from ..redis.broadcast_log import BroadcastLog
from ..storage.broadcasts import BroadcastRepository
from ..supervision import Aside

#: 比我们的钟快这么多的号不可信：任何进程都能往频道上发布，不能让它把账目带到将来。
MAX_AHEAD_MS: Final = 300_000


class _Arrived(msgspec.Struct, tag_field="type", tag="new_message"):
    """广播频道上的帧里我们要的几项；没有前两项的是瞬时消息。"""

    broadcast_id: BroadcastId
    broadcast_prev: int
    message_id: str
    priority: int
    expires_at: int


_decoder: Final = msgspec.json.Decoder(_Arrived)
_id: Final = attrgetter("broadcast_id")


class BroadcastFeed:
    """实现 ``contracts.Broadcasts``。``refresh`` 之后可用；断线重订阅之后须再 ``refresh``。

    ``on_missed``：发现漏收时同步调用，由它的主人去 ``refresh`` 并重读各连接。
    """

    def __init__(
        self,
        log: BroadcastLog,
        mailbox: OfflineMessageQueue,
        on_missed: Callable[[], None],
        *,
        clock: Clock = now_ms,
    ) -> None:
        self._log = log
        self._mailbox = mailbox
        self._on_missed = on_missed
        self._clock = clock
        self._entries: list[BroadcastEntry] = []
        self._by_message: dict[str, BroadcastEntry] = {}
        #: 各条在这里最早的号，连接按它记账：Redis 丢了数据会换个号再记一遍，推过的不再推。
        self._first: dict[str, BroadcastId] = {}
        self._newest = 0
        #: 只增：听到的、漏了的（要重读）、正文问不到而没有补发的。
        self.heard = self.missed = self.unloaded = 0
        self._not_loaded = RepeatedWarning("broadcasts_not_loaded")

    async def refresh(self) -> None:
        """从 Redis 重读整个目录。

        :raises RedisUnavailableError: 目录没有变
        """
        read = await self._log.entries()
        logged = {entry.message_id for entry in read}
        # 读的途中实时到的还不在其中；Redis 丢了数据，还没有再记一遍的也不在
        others = [entry for entry in self._entries if entry.message_id not in logged]
        self._keep(sorted([*others, *read], key=_id))

    @property
    def remembered(self) -> int:
        """目录里有几条。"""
        return len(self._entries)

    @property
    def newest(self) -> int:
        """目录里最新的号；没有过则 0。"""
        return self._newest

    def find(self, message_id: str) -> BroadcastEntry | None:
        """没过期的广播；别的一概 None。"""
        return self._by_message.get(message_id)

    # ── 网关一侧 ─────────────────────────────────────────────────────────────

    def arrived(self, payload: bytes) -> BroadcastId | Arrival | None:
        try:
            frame = _decoder.decode(payload)
        except msgspec.DecodeError:
            return None
        broadcast_id = frame.broadcast_id
        if not self._newest < broadcast_id <= self._clock() + MAX_AHEAD_MS:
            return self._first.get(frame.message_id)  # 重读日志时已经读到的认得
        if frame.broadcast_prev > self._newest:
            self.missed += 1
            logger.bind(broadcast_id=broadcast_id).warning("broadcast_missed")
            self._on_missed()
            return Arrival.MISSED
        entry = BroadcastEntry(
            broadcast_id, frame.broadcast_prev, frame.message_id, frame.priority, frame.expires_at
        )
        self.heard += 1
        others = [each for each in self._entries if each.message_id != frame.message_id]
        self._keep([*others, entry])
        return self._first.get(frame.message_id, broadcast_id)

    async def open(self, user_id: int) -> BroadcastView:
        return await self._opened(
            user_id, *await self._log.cursor(user_id, self._newest, self._clock())
        )

    async def view(self, user_id: int, found: tuple[Sequence[bytes], int]) -> BroadcastView:
        """同 ``open``；游标已在 ``redis/arrivals.py`` 问过。"""
        now = self._clock()
        return await self._opened(
            user_id, *await self._log.position(user_id, self._newest, now, found)
        )

    async def _opened(self, user_id: int, at: int, acked: set[int]) -> BroadcastView:
        missing = [each for each in self._since(at) if each.broadcast_id not in acked]
        # 过期的不会再有人确认：游标越过它们，零散记着的才并得进来
        reached = missing[0].previous if missing else self._newest
        if acked and reached > at:
            await self._log.advance([(user_id, reached, at)])
        return self._view(missing)

    def after(self, broadcast_id: int) -> BroadcastView:
        later = self._since(broadcast_id)
        return self._view([each for each in later if self._first[each.message_id] > broadcast_id])

    async def load(self, entries: Sequence[BroadcastEntry]) -> list[bytes]:
        try:
            tails = await self._mailbox.tails([entry.message_id for entry in entries])
        except DatabaseUnavailableError as error:
            # 正文丢了又问不到记录：连接不等 SQL（LESSONS 1），下次连接再补
            self.unloaded += len(entries)
            self._not_loaded.say(broadcasts=len(entries), code=error.code, cause=error.cause)
            return []
        return [
            broadcast_message(entry.broadcast_id, entry.previous, tails[entry.message_id])
            for entry in entries
            if entry.message_id in tails
        ]

    def _view(self, entries: Sequence[BroadcastEntry]) -> BroadcastView:
        return BroadcastView(tuple(entries), self._newest)

    # ── 目录 ────────────────────────────────────────────────────────────────

    def _since(self, broadcast_id: int) -> list[BroadcastEntry]:
        now = self._clock()
        start = bisect_right(self._entries, broadcast_id, key=_id)
        return [entry for entry in self._entries[start:] if entry.expires_at > now]

    def _keep(self, entries: Sequence[BroadcastEntry]) -> None:
        """换上新目录，过期的不要。每条广播一次，目录只有寿命之内的那些。"""
        now = self._clock()
        if entries:
            self._newest = max(self._newest, entries[-1].broadcast_id)
        self._entries = [entry for entry in entries if entry.expires_at > now]
        self._by_message = {entry.message_id: entry for entry in self._entries}
        self._first = {
            message_id: self._first.get(message_id, BroadcastId(entry.broadcast_id))
            for message_id, entry in self._by_message.items()
        }


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
        aside: Aside,
    ) -> None:
        self._inner = inner
        #: 核实过的都有 seq，不是广播。
        self.record = inner.record
        self._feed = feed
        self._log = log
        self._record = record
        self._writer = BatchWriter[_Row](
            self._write,
            deferred=RepeatedWarning("broadcast_ack_flush_deferred"),
            batch_rows=BATCH_ROWS,
            aside=aside,
            flush_s=flush_ms / 1000,
        )
        #: 写入循环；关机时没写完的，下次连接会再推。
        self.run, self.drain = self._writer.run, self._writer.drain
        #: 写下的确认，只增。
        self.confirmed = 0

    async def confirm(self, user_id: int, message_ids: Sequence[str], now: int) -> AckOutcome:
        """任何人都可以确认没过期的广播：它本就是发给所有人的。"""
        found = {i: entry for i in message_ids if (entry := self._feed.find(i)) is not None}
        self._writer.add((user_id, entry, now) for entry in found.values())
        rest = [message_id for message_id in message_ids if message_id not in found]
        if not rest:
            return AckOutcome(len(found))
        outcome = await self._inner.confirm(user_id, rest, now)
        return AckOutcome(len(found) + outcome.accepted, outcome.unknown)

    async def _write(self, batch: Sequence[_Row]) -> None:
        await self._record.record_delivered([(e.message_id, u, at) for u, e, at in batch])
        await self._log.advance([(u, e.broadcast_id, e.previous) for u, e, _ in batch])
        self.confirmed += len(batch)
