"""离线消息队列：每个用户一只信箱，先进信箱，后推；只有确认能把消息移出去。

从不查在线状态来决定要不要保留消息，所以“查的时候在、推的时候走了”的竞态不存在。
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Final

from ..clock import Clock, now_ms
from ..contracts import BodySource
from ..errors import UnavailableError
from ..histogram import Histogram
from ..logs import RepeatedWarning, logger
from ..mailbox_model import (
    Delivered,
    Delivery,
    EvictedRange,
    MailboxEntry,
    MailboxView,
    OpenedMailbox,
    Origin,
    ResumePoint,
    ResyncReason,
)
from ..model import Message, Outgoing
from ..node.flight_recorder import OFF, FlightRecorder
from ..person_id import number_or_nobody
from ..protocol.envelope import OfflineMessage, decode_tail, encode_tail, new_message
from ..redis.bodies import OVER_LINGERS_MS, Bodies, Body, unopened
from ..redis.evictions import Evictions
from ..redis.link import Command
from ..redis.mailboxes import DeliveredBatch, Mailboxes, MailboxLimits
from ..redis.redis_service import RedisService
from ..redis.switches import LastWrite
from ..redis.withdrawals import Withdrawals
from ..settings import MessageSettings
from ..supervision import LOGGED_ITEMS
from .overflow import Overflow

__all__ = ["Delivered", "Delivery", "OfflineMessage", "OfflineMessageQueue"]

#: seq 要比信箱多活这么久，见 ``MailboxLimits``。
SEQ_EXTRA_TTL_MS: Final = 30 * 86_400_000

#: 信箱的大小分成这几格（含）。
MAILBOX_SIZES: Final = (0, 1, 5, 10, 50, 100, 500, 1_000, 10_000)

#: 同时列出几个人的信箱。
_LISTINGS_AT_ONCE: Final = 4
#: 连接时信箱溢出着，至多等这么久让它先挤好。
TRIM_WAIT_S: Final = 0.25


class OfflineMessageQueue:
    """实现 ``contracts.Mailbox``。错误是 ``RedisUnavailableError``、``RedisCommandError``。

    信箱的键活 ``message_ttl_s``（每次投递续期），消息自己的有效期不得更长。
    """

    def __init__(
        self,
        redis: RedisService,
        body_source: BodySource,
        settings: MessageSettings,
        *,
        recorder: FlightRecorder = OFF,
        clock: Clock = now_ms,
    ) -> None:
        ttl_ms = self.ttl_ms = settings.ttl_s * 1000
        limits = MailboxLimits(
            mailbox_max_entries=settings.mailbox_max_entries,
            log_max_entries=settings.log_max_entries,
            ttl_ms=ttl_ms,
            seq_ttl_ms=ttl_ms + SEQ_EXTRA_TTL_MS,
        )
        self.boxes = self._mailboxes = Mailboxes(redis.lean, redis.keys, limits)
        self.boxes.replicas = redis.replicas
        #: 换了连接（重启、主从切换）之后，我们写的还在不在。
        self.last_write = LastWrite(redis.writing, redis.keys, limits.log_max_entries)
        #: 把已确认的 (user_id, message_ids) 移出信箱，返回移出了几条。幂等。
        self.remove = self._mailboxes.remove
        self._evictions = Evictions(redis.lean, redis.keys, limits)
        self.overfull = self._evictions.overfull
        #: 找出有哪些信箱，见 ``Mailboxes.walk``。
        self.walk = self._mailboxes.walk
        self.withdrawals = Withdrawals(redis.lean, redis.keys, self.boxes)
        self._bodies = Bodies(redis.lean, redis.keys, settings.compress_above_bytes, ttl_ms)
        #: 存入 (message_id, 尾, 优先级, 过期时刻)；必须先于 ``deliver``。幂等。
        self.store_bodies = self._bodies.store
        self.open_status = self._bodies.open_status
        self.replace_body = self._bodies.replace
        #: 谁也不等的：正文现在就删，状态留给迟到的确认片刻。
        self.give_back = self._bodies.forget
        self._body_source = body_source
        self._record = recorder.delivered.append
        self._clock = clock
        self.overflow = Overflow()
        self._not_restored = RepeatedWarning("bodies_not_restored")
        #: 一只信箱的上限。
        self.max_entries = settings.mailbox_max_entries
        #: 连接时各人的信箱里有几条。
        self.sizes = Histogram(MAILBOX_SIZES)
        #: 因正文已不可得（过期、来源不认识）而移出信箱的条数。
        self.dropped = 0
        self._listing = asyncio.Semaphore(_LISTINGS_AT_ONCE)
        #: 从来源重新做出的正文数。
        self.restored = 0

    # ── 投递 ────────────────────────────────────────────────────────────────

    async def deliver(
        self, deliveries: Sequence[Delivery], *, publish: bool = True
    ) -> list[list[Delivered]]:
        """进信箱并发布；结果与 ``deliveries``、其 ``recipient_ids`` 一一对应。

        对每个（用户, 消息）原子且幂等：还在信箱的沿用旧 seq 再推一次（重试），已确认的不动。
        整批不原子：抛出时可能已投递一部分，整批重来无害。``publish`` 为假则只进信箱。
        """
        return (await self._deliver(deliveries, publish=publish)).rows

    async def deliver_fresh(
        self,
        batch: Sequence[Outgoing],
        bodies: Sequence[Body],
        now: int,
        also: Sequence[Command] = (),
    ) -> tuple[list[list[Delivered]], list[tuple[str, Exception]]]:
        """刚接受的：状态、正文、投递，一次写出（``also`` 随着一起），Redis 依次执行。

        结果与 ``batch``、其中升序的收件人一一对应；另外返回开不成状态的。原子与幂等同 ``deliver``。
        """
        opening = self._bodies.opening(batch, now)
        ahead = [*opening, *self._bodies.storing(bodies), *also]
        deliveries = [
            _first(item.recipient_ids, body) for item, body in zip(batch, bodies, strict=True)
        ]
        done = await self._deliver(deliveries, publish=True, ahead=ahead)
        return done.rows, unopened(batch, done.ahead[: len(opening)])

    async def _deliver(
        self, deliveries: Sequence[Delivery], *, publish: bool, ahead: Sequence[Command] = ()
    ) -> DeliveredBatch:
        at = self._clock()  # 之前的：推送在回答到来之前就发生了
        done = await self._mailboxes.deliver(deliveries, publish=publish, ahead=ahead)
        if done.overfull:
            self.overflow.note(done.overfull)
        for delivery, row in zip(deliveries, done.rows, strict=True):
            if row:
                first, last = row[0].user_id, row[-1].user_id
                self._record((at, delivery.message_id, first, last, delivery.attempt))
        if deliveries:
            self.last_write.note_batch(deliveries, done.rows, self.generation)
        return done

    # ── 挤出 ────────────────────────────────────────────────────────────────

    async def mark_evicted(
        self, user_id: int, chosen: Sequence[str], kept: Mapping[int, Origin]
    ) -> list[str]:
        """见 ``Evictions.mark_evicted``。"""
        return await self._evictions.mark_evicted(user_id, chosen, self._clock(), kept)

    async def origins(self, message_ids: Sequence[str]) -> dict[str, Origin]:
        """没有记录的（不是经 MessageService 来的）：看正文。"""
        tails = await self._bodies.load(message_ids)
        found = {
            i: decode_tail(t) for i, t in zip(message_ids, tails, strict=True) if t is not None
        }
        of = number_or_nobody  # 只为分清是谁的：一段字的合成一个
        return {i: Origin(of(tail.sender.id or 0), tail.priority) for i, tail in found.items()}

    async def tails(self, message_ids: Sequence[str]) -> dict[str, bytes]:
        """各消息的尾；Redis 里没有的从来源重做。都没有（或已过期）的不出现。"""
        found = await self._bodies.load(message_ids)
        tails = {i: tail for i, tail in zip(message_ids, found, strict=True) if tail is not None}
        missing = [message_id for message_id in message_ids if message_id not in tails]
        if missing:
            tails.update((body[0], body[1]) for body in await self._restore(missing))
        return tails

    async def contains(
        self, user_id: int, message_ids: Sequence[str]
    ) -> tuple[list[str], list[str], list[str]]:
        """把 id 分成三类：在信箱里的、不在了而推过的（只在日志或墓碑里）、这个用户不认识的。"""
        held, logged = await self._mailboxes.membership(user_id, message_ids)
        rows = list(zip(message_ids, held, logged, strict=True))
        return (
            [message_id for message_id, here, _ in rows if here],
            [message_id for message_id, here, log in rows if log and not here],
            [message_id for message_id, here, log in rows if not (here or log)],
        )

    async def missing(self, pairs: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """(message_id, user_id) 里 Redis 毫无痕迹的：不在信箱，也没有投递过。"""
        return await self._mailboxes.missing(pairs) if pairs else []

    async def lost(self, pairs: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """见 ``Mailboxes.lost``。"""
        return await self._mailboxes.lost(pairs) if pairs else []

    @property
    def generation(self) -> int:
        """当前代次（见 ``recovery/reconciler.py``）；更旧的 epoch 在下次 ``open`` 时换掉。"""
        return self._mailboxes.generation

    @generation.setter
    def generation(self, value: int) -> None:
        self._mailboxes.generation = value
        self._mailboxes.emptied = False

    def presume_emptied(self, emptied: bool) -> None:
        """Redis 被清空了，对账者就要换代次：此后连上的只得一帧 ``resync``。"""
        self._mailboxes.emptied = emptied

    # ── 连接时读取 ───────────────────────────────────────────────────────────

    async def open(self, user_id: int, resume: ResumePoint | None = None) -> MailboxView:
        return await self.view(user_id, await self._mailboxes.open(user_id, resume), resume)

    async def view(
        self, user_id: int, opened: OpenedMailbox, resume: ResumePoint | None
    ) -> MailboxView:
        """读到的信箱，连同各条的优先级；正文救不回来的、溢出的在这里处置。"""
        self.sizes.record(len(opened.mailbox))
        if len(opened.mailbox) > self.max_entries:
            # 还没来得及挤（或挤的人死了）：等一小会儿；记录不在就算了，多补几条无妨
            self.overflow.note([user_id])
            await self.overflow.wait([user_id], TRIM_WAIT_S)
            opened = await self._mailboxes.open(user_id, resume)
        # 日志与信箱之并：last_seq 之前的若还在信箱，说明它的确认丢了，再推一次让它再确认
        mailbox = dict(opened.mailbox)
        seqs = dict(opened.log) | mailbox
        evicted = {i: seq for i, seq in opened.evicted if i not in mailbox}
        entries, gone, unknown = await self._entries(user_id, seqs, mailbox, evicted)
        # 续传的设备从日志得到被挤出信箱的，只要正文还在；它应用过的不是它的洞
        applied = resume.last_seq if opened.resumed and resume is not None else 0
        readable = {entry.seq for entry in entries}
        return MailboxView(
            epoch=opened.epoch,
            seq=opened.seq,
            entries=tuple(entries),
            resumed=opened.resumed,
            resync_reason=opened.resync_reason or _unknown_reason(unknown, applied),
            evicted=tuple(sorted(s for s in evicted.values() if s > applied and s not in readable)),
            expired=tuple(sorted({*opened.expired, *(seq for seq in gone if seq > applied)})),
            evicted_before=None if opened.resumed else self._evicted_before(opened),
            unreadable=tuple(unknown),
        )

    def _evicted_before(self, opened: OpenedMailbox) -> EvictedRange | None:
        before = opened.evicted_before
        if before is None or before.at < self._clock() - self.ttl_ms:
            return None  # 太旧的墓碑与它的消息一起过期了
        return EvictedRange(before.from_seq, before.to_seq, before.how_many)

    async def load(self, entries: Sequence[MailboxEntry]) -> list[bytes]:
        tails = await self._loaded([entry.message_id for entry in entries])
        return [
            new_message(entry.seq, 0, tails[entry.message_id])
            for entry in entries
            if entry.message_id in tails
        ]

    async def _loaded(self, message_ids: Sequence[str]) -> dict[str, bytes]:
        """同 ``tails``；来源此刻问不到就略去，留在信箱里等下一次（LESSONS 1）。"""
        try:
            return await self.tails(message_ids)
        except UnavailableError as error:
            self._note_not_restored(message_ids, error)
            found = await self._bodies.load(message_ids)
            return {i: tail for i, tail in zip(message_ids, found, strict=True) if tail is not None}

    async def _entries(
        self,
        user_id: int,
        seqs: Mapping[str, int],
        mailbox: Mapping[str, int],
        evicted: Container[str] = (),
    ) -> tuple[list[MailboxEntry], list[int], list[int]]:
        """排好序的；正文救不回来的 seq（在 ``mailbox`` 里的移出，留下墓碑）；还不知道的。

        ``evicted``：挤出时交还了正文的，不去救。
        """
        ids = list(seqs)
        known = dict(zip(ids, await self._bodies.priorities(ids), strict=True)) if ids else {}
        missing = [i for i in ids if known[i] is None and i not in evicted]
        gone = await self._recover(user_id, missing, known, mailbox) if missing else []
        entries = [
            MailboxEntry(seqs[message_id], message_id, priority)
            for message_id, priority in known.items()
            if priority is not None
        ]
        entries.sort(key=lambda entry: (-entry.priority, entry.seq))
        unknown = set(missing).difference(gone, (i for i in missing if known[i] is not None))
        return entries, [seqs[i] for i in gone], [seqs[i] for i in unknown]

    def _note_not_restored(self, message_ids: Sequence[str], error: UnavailableError) -> None:
        some, code = message_ids[:LOGGED_ITEMS], error.code
        self._not_restored.say(
            bodies=len(message_ids), message_ids=some, code=code, cause=error.cause
        )

    async def _recover(
        self,
        user_id: int,
        missing: Sequence[str],
        known: dict[str, int | None],
        mailbox: Mapping[str, int],
    ) -> list[str]:
        """补进 ``known``；返回确知救不回来的。"""
        try:
            restored = await self._restore(missing)
        except UnavailableError as error:
            # 连接路径不依赖 SQL（LESSONS 1）：这次先不推它们，留在信箱里等下一次
            self._note_not_restored(missing, error)
            return []
        known.update((message_id, priority) for message_id, _, priority, _ in restored)
        gone = [message_id for message_id in missing if known[message_id] is None]
        if lost := [message_id for message_id in gone if message_id in mailbox]:
            self.dropped += await self._mailboxes.bury(user_id, [(i, mailbox[i]) for i in lost])
            log = logger.bind(user_id=user_id, entries=len(lost), message_ids=lost[:LOGGED_ITEMS])
            log.info("mailbox_entries_dropped")
        return gone

    async def _restore(self, message_ids: Sequence[str]) -> list[Body]:
        """从来源重做正文并存回，存不回去也算；已过期的不算。"""
        tails = await self._body_source.tails(message_ids)
        now = self._clock()
        bodies = [body for body in map(_body, tails.items()) if body[3] > now]
        if not bodies:
            return []
        until = now + OVER_LINGERS_MS
        try:
            await self._bodies.store([(*body[:3], min(body[3], until)) for body in bodies])
        except UnavailableError as error:  # 满了，或（Cluster）它的主不在，而他的信箱在
            self._note_not_restored(message_ids, error)
        else:
            self.restored += len(bodies)
            logger.bind(bodies=len(bodies)).info("message_bodies_restored")
        return bodies

    # ── 需求文档的方法 ────────────────────────────────────────────────────────

    async def add_offline_message(self, user_id: int, message: Message) -> int:
        """存入正文与信箱但不推送，返回 seq；同一条重复加入得到同一个 seq。"""
        body = (message.message_id, encode_tail(message), message.priority, message.expires_at)
        await self.store_bodies([body])
        [[delivered]] = await self.deliver([_first((user_id,), body)], publish=False)
        return delivered.seq

    async def get_offline_messages(self, user_id: int, limit: int = 100) -> list[OfflineMessage]:
        """信箱里的前 ``limit`` 条，紧急者在前，同级按 seq；只读，不取走。"""
        async with self._listing:  # 带着正文：几十个人同时要，也不同时占着内存（A7）
            return await self._list(user_id, limit)

    async def _list(self, user_id: int, limit: int) -> list[OfflineMessage]:
        seqs = dict(await self._mailboxes.entries(user_id))
        entries = (await self._entries(user_id, seqs, seqs))[0][:limit]
        tails = await self._bodies.load([entry.message_id for entry in entries])
        return [
            OfflineMessage(entry, decode_tail(tail))
            for entry, tail in zip(entries, tails, strict=True)
            if tail is not None
        ]

    async def message_ids(self, user_id: int) -> list[str]:
        """信箱里全部的 id，按 seq；不问正文。"""
        return [message_id for message_id, _ in await self._mailboxes.entries(user_id)]

    async def clear_offline_messages(self, user_id: int) -> int:
        """清空信箱，返回清掉了几条；它们在续传日志里仍算“推过”。
        只动信箱：有记录的消息要用 ``DeliveryFailures.clear``，它先记下结局。
        """
        return await self._mailboxes.clear(user_id)

    async def get_offline_message_count(self, user_id: int) -> int:
        """信箱里的条数，含正文已过期、尚未清理的。"""
        return await self._mailboxes.count(user_id)


def _unknown_reason(unknown: Iterable[int], applied: int) -> ResyncReason | None:
    """记录此刻问不到，不知道是过期了还是还会来：不是 ``gap``，也不能不说（DLV-5）。"""
    return "too_far_behind" if any(seq > applied for seq in unknown) else None


def _first(recipient_ids: Sequence[int], body: Body) -> Delivery:
    """第一次投递。"""
    name, tail, priority, expires_at = body
    to = tuple(recipient_ids if len(recipient_ids) == 1 else sorted(recipient_ids))
    return Delivery(
        message_id=name, tail=tail, recipient_ids=to, priority=priority, expires_at=expires_at
    )


def _body(item: tuple[str, bytes]) -> Body:
    decoded = decode_tail(item[1])
    return (*item, decoded.priority, decoded.expires_at)
