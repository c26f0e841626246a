"""队列的条目：编码、取到手里的样子、了结（确认、进死信、推迟；以及在了结之前保住它）。"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec
from loguru import logger

from ..errors import MalformedEnvelopeError
from ..model import QueueEntry
from ..redis.streams import QueueStreams
from ..supervision import Aside, is_temporary

ENTRY_VERSION: Final = b"1"

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


class Settlement:
    """见 ``QueueStreams``：原子、幂等；已被别人了结的条目不受影响。"""

    def __init__(
        self, streams: QueueStreams, on_dead: OnDead | None = None, aside: Aside | None = None
    ) -> None:
        self._streams = streams
        self._on_dead = on_dead
        self._aside = aside or Aside("dead-letters")

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
        if self._on_dead is None:
            return
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
