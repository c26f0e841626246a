"""结局的 Redis 操作：认领重试、记失败与过期、重新入队。错误同 ``LeanConnection.execute``。"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeVar

from .keys import Keys
from .lean import LeanConnection, Script
from .link import Argument
from .mailboxes import MAX_TOMBSTONES

_retry: Final = Script("retry")
_fail: Final = Script("guard", "fail")
_expire: Final = Script("expire")
_requeue: Final = Script("requeue")
#: 一次 Lua 调用里至多这么多条，见 ``mailboxes.CALL_RECIPIENTS``。
CALL_ROWS: Final = 200

Row = TypeVar("Row", bound=tuple[Any, ...])


class Verdict(IntEnum):
    """``retry.lua`` 对一条登记的结论。"""

    GONE = 0
    CLAIMED = 1
    EXHAUSTED = 2
    STALE = 3
    UNKNOWN = 4


class Claimed(NamedTuple):
    verdict: Verdict
    attempts: int


class Outcomes:
    """``ttl_ms`` 是消息的最长寿命：墓碑活这么久，状态哈希万一要新建时也是。"""

    def __init__(self, lean: LeanConnection, keys: Keys, ttl_ms: int) -> None:
        self._lean = lean
        self._prefix = keys.prefix
        self._ttl_ms = ttl_ms

    async def claim(
        self, rows: Sequence[tuple[str, int, int]], max_attempts: int, now: int
    ) -> list[Claimed]:
        """认领 (message_id, user_id, 所知的次数)，结果次序不变；一次重试只有一个人认领到。"""
        replies = await self._run(_retry, [now, max_attempts], rows)
        return [Claimed(Verdict(v), n) for v, n in zip(replies[::2], replies[1::2], strict=True)]

    async def fail(
        self, rows: Sequence[tuple[str, int, bytes]], reason: str, now: int
    ) -> list[int | bytes]:
        """记 (message_id, user_id, 条目) 为失败；每条的结果见 ``fail.lua``。"""
        return await self._run(_fail, [now, reason, self._ttl_ms], rows)

    async def requeue(self, rows: Sequence[tuple[str, int, int, int, bytes]], now: int) -> int:
        """(message_id, user_id, 优先级, 过期时刻, 条目) 从头再来，返回放进去几条。"""
        return sum(await self._run(_requeue, [now, self._ttl_ms], rows))

    async def expire(self, rows: Sequence[tuple[str, int, int]]) -> None:
        """(message_id, user_id, 过期时刻) 过期了：移出信箱，没确认过的留下墓碑。"""
        await self._run(_expire, [self._ttl_ms, MAX_TOMBSTONES], rows)

    async def _run(
        self, script: Script, head: Sequence[Argument], rows: Sequence[Row]
    ) -> list[Any]:
        replies: list[Any] = []
        for chunk in _chunks(rows):
            flat = [value for row in chunk for value in row]
            reply = await script.run(self._lean, (), [self._prefix, *head, *flat])
            replies += reply if isinstance(reply, list) else [reply]
        return replies


def _chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), CALL_ROWS):
        yield rows[start : start + CALL_ROWS]
