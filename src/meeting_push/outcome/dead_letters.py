"""死信：看、重新入队、过期后丢弃。

一封死信要么是队列里处理不了的条目（``reject.lua``），要么是一个失败的收件人（``fail.lua``）；
字段相同：``v``、``entry``（``QueueEntry`` 的 JSON，畸形的则是原文）、``reason``、``queue``。
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from loguru import logger

from ..model import QueueEntry
from ..redis.redis_service import RedisService
from .failures import DeliveryFailures

#: 一轮过期清理看这么多封。
SCAN_LETTERS: Final = 200

_decoder: Final = msgspec.json.Decoder(QueueEntry)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """``entry`` 为 None 的读不懂，不能重新入队；``died_at`` 是毫秒。"""

    id: str
    died_at: int
    reason: str
    queue: str
    entry: QueueEntry | None


class DeadLetters:
    """错误同 ``LeanConnection.execute``。"""

    def __init__(
        self,
        redis: RedisService,
        failures: DeliveryFailures,
        *,
        streams: Iterable[str] = (),
    ) -> None:
        self._lean = redis.lean
        #: 失败的收件人一律在不分区的一条里，队列条目在各分区的。
        self._streams = list(dict.fromkeys([redis.keys.dead_letter_queue, *streams]))
        self._failures = failures
        self._scan_from = dict.fromkeys(self._streams, "-")

    async def page(
        self, cursor: str | None = None, limit: int = 50
    ) -> tuple[list[DeadLetter], str | None]:
        """新的在前；``cursor`` 是上一页最后一封的 id。"""
        newest = "+" if cursor is None else f"({cursor}"
        replies = await self._lean.execute_many(
            [("XREVRANGE", one, newest, "-", "COUNT", limit + 1) for one in self._streams]
        )
        letters = [_letter(*reply) for stream in replies for reply in stream]
        letters.sort(key=lambda letter: _position(letter.id), reverse=True)
        more = len(letters) > limit
        return letters[:limit], letters[limit - 1].id if more else None

    async def requeue(self, ids: Sequence[str]) -> list[str]:
        """把这些死信里没有送达、没有过期的收件人从头再来；返回真正重新入队的死信的 id。

        先进队列，后删死信。读不懂的、过期的、都已有结局的不动。幂等。
        """
        found = await self._lean.execute_many(
            [("XRANGE", one, each, each) for each in dict.fromkeys(ids) for one in self._streams]
        )
        requeued = []
        for letter in [_letter(*replies[0]) for replies in found if replies]:
            if letter.entry is not None and await self._requeue(letter.entry):
                await self._delete([letter.id])
                requeued.append(letter.id)
        return requeued

    async def _delete(self, ids: Sequence[str]) -> None:
        await self._lean.execute_many([("XDEL", one, *ids) for one in self._streams])

    async def _requeue(self, entry: QueueEntry) -> int:
        return await self._failures.requeue_all(
            [(entry.message_id, user_id) for user_id in entry.recipient_ids]
        )

    async def drop_expired(self, now: int) -> int:
        """各看一段，丢掉过了有效期的：再也不能重新入队。下一次接着看，到头再从头来。"""
        return sum([await self._drop_expired(stream, now) for stream in self._streams])

    async def _drop_expired(self, stream: str, now: int) -> int:
        replies = await self._lean.execute(
            "XRANGE", stream, self._scan_from[stream], "+", "COUNT", SCAN_LETTERS
        )
        letters = [_letter(*reply) for reply in replies]
        self._scan_from[stream] = f"({letters[-1].id}" if len(letters) == SCAN_LETTERS else "-"
        gone = [each.id for each in letters if each.entry and each.entry.expires_at <= now]
        if gone:
            await self._lean.execute("XDEL", stream, *gone)
            logger.bind(letters=len(gone)).info("dead_letters_expired")
        return len(gone)


def _letter(entry_id: bytes, flat: Sequence[Any]) -> DeadLetter:
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return DeadLetter(
        id=entry_id.decode(),
        died_at=int(entry_id.split(b"-")[0]),
        reason=fields.get(b"reason", b"").decode(errors="replace"),
        queue=fields.get(b"queue", b"").decode(errors="replace"),
        entry=_decode(fields.get(b"entry", b"")),
    )


def _position(entry_id: str) -> tuple[int, int]:
    at, number = entry_id.split("-")
    return int(at), int(number)


def _decode(raw: bytes) -> QueueEntry | None:
    try:
        return _decoder.decode(raw)
    except msgspec.DecodeError:
        return None
