"""取与了结：条目的样子；一个消费者怎样取（哪条流在前，一次取多少，认领，毒条目）；取到手的怎样了结
（确认、进死信、推迟），以及在了结之前保住它。"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ..clock import now_ms
from ..errors import MalformedEnvelopeError, MeetingPushError
from ..logs import RepeatedWarning, logger
from ..model import QueueEntry
from ..redis.group_reader import GroupReader, RawEntry, Read
from ..redis.keys import QueueKeys
from ..redis.link import NoGroupError
from ..redis.streams import QueueStreams
from ..supervision import Aside, is_temporary
from .room import LiveTraffic

#: 写下的都是它；读得懂的人才读得懂的，号更大（docs/operations.md“升级与退回”）。
ENTRY_VERSION: Final = b"1"
#: 号更大而这么新的，总先留着：写它的节点也许刚来，还没有人知道。
YOUNG_MS: Final = 3_000

encode_entry: Final = msgspec.json.Encoder().encode
_decoder: Final = msgspec.json.Decoder(QueueEntry)


@dataclass(frozen=True, slots=True)
class Taken:
    """取到手、尚未了结的一项；``queue`` 是它所在的流，``digest`` 是去重用的摘要。

    ``scheduled``：它从延迟集合来，投递之前要看是否已被撤回。
    """

    entry_id: bytes
    queue: str
    entry: QueueEntry
    digest: bytes = b""
    scheduled: bool = False


def delayed_member(entry: QueueEntry) -> bytes:
    """延迟集合里的样子，见 ``due.lua``。"""
    return b"%d%b" % (entry.priority, encode_entry(entry))


def parse(queue: str, entry_id: bytes, fields: dict[bytes, bytes]) -> Taken:
    """:raises MalformedEnvelopeError: 版本不认识，或不是 ``encode_entry`` 的产物"""
    if fields.get(b"v") != ENTRY_VERSION:
        raise MalformedEnvelopeError("unknown entry version")
    try:
        entry = _decoder.decode(fields.get(b"entry", b""))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEnvelopeError(f"malformed entry: {error}") from None
    return Taken(entry_id, queue, entry, fields.get(b"d", b""), b"s" in fields)


# ── 了结 ─────────────────────────────────────────────────────────────────────

#: 意外的全文（含回溯）留这么多字符，最后的最要紧。
MAX_ERROR_CHARS: Final = 4_000

#: 一项要进死信之前：把它的收件人记为失败。先记录，后移出；抛出则留着再来。
OnDead = Callable[[QueueEntry, str], Awaitable[None]]


_VERSION: Final = re.compile(rb"[0-9]{1,9}").fullmatch


class Settlement:
    """见 ``QueueStreams``：原子、幂等；已被别人了结的条目不受影响。"""

    def __init__(self, streams: QueueStreams, on_dead: OnDead, aside: Aside) -> None:
        self._streams = streams
        self._on_dead = on_dead
        self._aside = aside
        self._newer = RepeatedWarning("entry_of_another_version")
        #: 有别的版本的节点在服务；装配时换上。
        self.mixed: Callable[[], bool] = lambda: False

    def is_for_others(self, queue: str, entry_id: bytes, fields: Mapping[bytes, bytes]) -> bool:
        """更新的程序写的，而读得懂它的在服务：留给他们，不进死信。"""
        version = fields.get(b"v", b"")
        if not _VERSION(version) or int(version) <= int(ENTRY_VERSION):
            return False
        age_ms = now_ms() - int(entry_id.partition(b"-")[0])
        if not self.mixed() and age_ms > YOUNG_MS:
            return False
        self._newer.say(queue=queue, entry_id=entry_id.decode())
        return True

    def as_delayed(self, queue: str, entry_id: bytes, fields: dict[bytes, bytes]) -> bytes | None:
        """一项在延迟集合里的样子；留给他们的是 None。

        :raises MalformedEnvelopeError: 见 ``parse``
        """
        if self.is_for_others(queue, entry_id, fields):
            return None
        return delayed_member(parse(queue, entry_id, fields).entry)

    async def finish(self, taken: Iterable[Taken]) -> None:
        by_queue: defaultdict[str, list[tuple[bytes, bytes]]] = defaultdict(list)
        for item in taken:
            by_queue[item.queue].append((item.entry_id, item.digest))
        await self._streams.finish(by_queue)

    async def bury(
        self, queue: str, entry_id: bytes, raw: bytes, reason: str, digest: bytes = b""
    ) -> None:
        """带着原因（与记下的意外）移进死信。"""
        logger.bind(queue=queue, entry_id=entry_id.decode(), reason=reason).error("entry_rejected")
        await self._streams.bury(queue, entry_id, digest, raw, reason)

    async def reject(self, item: Taken, reason: str) -> None:
        """同 ``bury``，给已解析的条目；先经 ``on_dead`` 记录，记不成的（值存不下）也进死信。"""
        await self.record_dead(item.entry, reason)
        raw = encode_entry(item.entry)
        await self.bury(item.queue, item.entry_id, raw, reason, item.digest)

    async def record_dead(self, entry: QueueEntry, reason: str) -> None:
        """把它的收件人记为失败；记不成的计数、记下，不抛出。

        :raises UnavailableError: 暂时的
        """
        try:
            await self._on_dead(entry, reason)
        except Exception as error:
            if is_temporary(error):
                raise
            self._aside.note([entry.message_id], error)

    async def defer(self, item: Taken, due_at: int) -> None:
        """放回延迟集合，``due_at``（毫秒）再来。"""
        member = delayed_member(item.entry)
        await self._streams.postpone(item.queue, item.entry_id, item.digest, member, due_at)

    async def note_error(self, item: Taken, error: str) -> None:
        """记下处理它时的意外；它成了毒条目时随它进死信。"""
        await self._streams.note_error(item.queue, item.entry_id, error[-MAX_ERROR_CHARS:])

    async def hold(self, consumer: str, taken: Iterable[Taken]) -> None:
        """暂时做不成（依赖不在）的留在手里：不让别人认领，也不算进取出的次数。"""
        by_queue: defaultdict[str, list[bytes]] = defaultdict(list)
        for item in taken:
            by_queue[item.queue].append(item.entry_id)
        await self._streams.hold(consumer, by_queue)


# ── 取 ───────────────────────────────────────────────────────────────────────

POISON: Final = "delivered_too_often"
#: 慢的那条一次取大约这么多份（几秒做得完，没有人来认领），一次交出大约这么多份（几毫秒）；每条消息
#: 自己的正文与状态另值几份。
BULK_READ: Final = 5_000
BULK_RECIPIENTS: Final = 100
#: 没有人在等此刻的（``LiveTraffic.calm``），一段就大一些：往返才是代价。
CALM_RECIPIENTS: Final = 4_000
BULK_ENTRY_COST: Final = 4
#: 一次取的项数的界；在其间按上次每项有几份来定。
BULK_ENTRIES: Final = (10, 500)


@dataclass(frozen=True, slots=True)
class TakeRules:
    """``starvation_bound``：每这么多次普通队列先取一次；``max_deliveries``：取出超过它就是毒。"""

    starvation_bound: int
    claim_idle_ms: int
    max_deliveries: int


class QueueReader:
    """由 ``MessageQueue.open_reader`` 建立；一个任务用一个。两个同名的无害，只是分不清谁取的。"""

    def __init__(
        self,
        hand: GroupReader,
        partitions: Sequence[QueueKeys],
        settlement: Settlement,
        rules: TakeRules,
        traffic: LiveTraffic,
    ) -> None:
        self._hand = hand
        #: 关闭连接：手里没有了结的会被别人认领。
        self.close = hand.close
        #: 见 ``GroupReader.wake``。
        self.wake = hand.wake
        self._priority = [keys.priority for keys in partitions]
        self._delivery = [keys.delivery for keys in partitions]
        self._settlement = settlement
        self._rules = rules
        self._turn = 0
        self._bulk = [keys.bulk for keys in partitions]
        self._streams = (*self._priority, *self._delivery, *self._bulk)
        self._surplus: list[Taken] = []
        #: 从慢的那条取来、还没有交出的。
        self._bulk_rest: list[Taken] = []
        self._bulk_entries = BULK_ENTRIES[0]
        self._traffic = traffic
        self.malformed = 0
        self.poisoned = 0

    async def take(self, count: int, timeout: float = 30, *, bulk: bool = True) -> list[Taken]:
        """取至多 ``count`` 项，优先队列在前；都空才阻塞，至多 ``timeout`` 秒。

        慢的那条（``bulk``：这次可以取）在最后，一次只交出一小段：此刻的消息至多等一段。
        """
        if not self._surplus:
            self._surplus = await self._in_group(self._read_all(count, int(timeout * 1000), bulk))
            if any(item.queue not in self._bulk for item in self._surplus):
                self._traffic.note()
        taken, self._surplus = self._surplus[:count], self._surplus[count:]
        return taken

    def surplus(self) -> list[Taken]:
        """已从 Redis 取来、超出了 ``count`` 而还没有交出的；取走它们。"""
        rest, self._surplus = self._surplus, []
        return rest

    @property
    def calm(self) -> bool:
        """有一阵没有见到此刻的消息了。"""
        return self._traffic.calm

    @property
    def has_bulk(self) -> bool:
        """手里还有从慢的那条取来的。"""
        return bool(self._bulk_rest)

    def bulk_among(self, taken: Sequence[Taken]) -> list[Taken]:
        """``taken`` 里从慢的那条取来的。"""
        return [item for item in taken if item.queue in self._bulk]

    def bulk_slice(self) -> list[Taken]:
        """其中的一段；取走它。"""
        most = CALM_RECIPIENTS if self.calm else BULK_RECIPIENTS
        size = count = 0
        for item in self._bulk_rest:
            size += len(item.entry.recipient_ids) + BULK_ENTRY_COST
            count += 1
            if size >= most:
                break
        taken, self._bulk_rest = self._bulk_rest[:count], self._bulk_rest[count:]
        return taken

    async def open(self) -> None:
        """建立消费组（已有则无害）。"""
        await self._hand.open(self._streams)

    async def _in_group(self, work: Awaitable[list[Taken]]) -> list[Taken]:
        """消费组不见了（FLUSHALL、切换）就重建，这一次什么也取不到。"""
        try:
            return await work
        except NoGroupError:
            await self._hand.create_groups(self._streams)
            return []

    # ── 取 ──────────────────────────────────────────────────────────────────

    async def _read_all(self, count: int, block_ms: int, bulk: bool) -> list[Taken]:
        self._turn += 1
        groups = [self._priority, self._delivery]
        if self._turn % self._rules.starvation_bound == 0:
            groups.reverse()
            if bulk and (part := await self._bulk_part()):
                return part
        if bulk and self._bulk_rest:  # 段与段之间只看一眼
            return await self._read(count, [*groups[0], *groups[1]]) or self.bulk_slice()
        taken: list[Taken] = []
        for streams in groups:
            if len(taken) < count:
                taken += await self._read(count - len(taken), streams)
        if not taken and bulk:
            taken = await self._bulk_part()
        if taken or block_ms <= 0:
            return taken
        return await self._wait(count, [*groups[0], *groups[1]], block_ms, bulk)

    async def _bulk_part(self) -> list[Taken]:
        live: list[Taken] = []
        if not self._bulk_rest:
            live = await self._read(self._bulk_entries, self._bulk)
            self._bulk_entries = _entries_of(self._bulk_rest)
        return live or self.bulk_slice()

    async def _wait(
        self, count: int, streams: Sequence[str], block_ms: int, bulk: bool
    ) -> list[Taken]:
        if bulk:
            streams = [*streams, *self._bulk]
        return await self._read(count, streams, block_ms) or self.bulk_slice()

    async def _read(self, count: int, streams: Sequence[str], block_ms: int = 0) -> list[Taken]:
        # 多出来的留在 _surplus
        each = count if block_ms else max(1, count // len(streams))
        return await self._sorted(await self._hand.read(each, streams, block_ms))

    async def _sorted(self, found: Read) -> list[Taken]:
        """此刻的；慢的那条的留在手里（等着的一次读到的，可能这时才来）。"""
        live: list[Taken] = []
        for stream, items in found:
            queue = stream.decode()
            taken = await self._parse(queue, items)
            if queue in self._bulk:
                self._bulk_rest += taken
            else:
                live += taken
        return live

    async def rest(self) -> list[Taken]:
        """不再取了：已在手里、还在路上的下一段；空的，就没有了。"""
        return await self._sorted(await self._hand.rest()) or self.surplus() or self.bulk_slice()

    # ── 认领 ────────────────────────────────────────────────────────────────

    async def claim(self, count: int, *, bulk: bool = True) -> list[Taken]:
        """认领别人（或先前的自己）取走后超过 ``claim_idle_ms`` 没有了结的；毒条目直接进死信。

        慢的那条的留在手里，一段一段地交出。
        """
        return await self._in_group(self._claim_all(count, bulk))

    async def _claim_all(self, count: int, bulk: bool) -> list[Taken]:
        taken: list[Taken] = []
        for queue in (*self._priority, *self._delivery):
            taken += await self._claim(queue, count)
        if bulk and not self._bulk_rest:
            for queue in self._bulk:
                self._bulk_rest += await self._claim(queue, count)
        return taken

    async def _claim(self, queue: str, count: int) -> list[Taken]:
        items = await self._hand.claim(queue, self._rules.claim_idle_ms, count)
        return await self._without_poison(await self._parse(queue, items))

    async def _without_poison(self, claimed: Sequence[Taken]) -> list[Taken]:
        if not claimed:
            return []
        times = await self._hand.times_taken([(item.queue, item.entry_id) for item in claimed])
        healthy = []
        for item, taken in zip(claimed, times, strict=True):
            if taken > self._rules.max_deliveries:
                self.poisoned += 1
                await self._buried(item, self._settlement.reject(item, POISON))
            else:
                healthy.append(item)
        return healthy

    # ── 解析 ────────────────────────────────────────────────────────────────

    async def _parse(self, queue: str, items: Sequence[RawEntry]) -> list[Taken]:
        taken, left = [], []
        for entry_id, flat in items:
            fields: dict[bytes, Any] = dict(zip(flat[::2], flat[1::2], strict=True))
            if self._settlement.is_for_others(queue, entry_id, fields):
                left.append(entry_id)
                continue
            try:
                taken.append(parse(queue, entry_id, fields))
            except MalformedEnvelopeError as error:
                self.malformed += 1
                raw, digest = fields.get(b"entry", b""), fields.get(b"d", b"")
                await self._buried(
                    entry_id, self._settlement.bury(queue, entry_id, raw, error.message, digest)
                )
        if left:
            # 立刻谁都可以认领：读得懂的下一次来看就拿到，不会总被读不懂的抢先
            await self._hand.leave(queue, left, self._rules.claim_idle_ms)
        return taken

    async def _buried(self, what: object, burial: Awaitable[None]) -> None:
        """进不了死信的（那条流坏了）留在待确认里，以后再来：不能连累取到手的别的。"""
        try:
            await burial
        except MeetingPushError as error:
            if error.temporary:
                raise
            logger.bind(entry=str(what)[:200], code=error.code).error("entry_not_buried")


def _entries_of(last: Sequence[Taken]) -> int:
    """下次取几项：条目有大有小（一个收件人到 ``queue_chunk_recipients`` 个），份数才是工夫。"""
    least, most = BULK_ENTRIES
    recipients = sum(len(item.entry.recipient_ids) for item in last)
    return max(least, min(most, BULK_READ * len(last) // max(1, recipients)))
