"""结局的 Redis 操作：确认、认领重试、失败与过期、重新入队；死信。

错误同 ``LeanConnection.execute``。
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import chain
from typing import Any, Final, NamedTuple, TypeVar, get_args

from ..model import DEFAULT_TYPE, MAX_PRIORITY, MIN_PRIORITY, MessageKind, MessageType
from .bodies import OVER_LINGERS_MS
from .keys import Keys
from .lean import LeanConnection, Script
from .link import Argument, Command
from .mailboxes import MAX_TOMBSTONES

_confirm: Final = Script("guard", "confirm")
_retry: Final = Script("retry")
_fail: Final = Script("guard", "fail")
_expire: Final = Script("expire")
_requeue: Final = Script("requeue")
#: 一次 Lua 调用里至多这么多条，见 ``mailboxes.CALL_RECIPIENTS``。
CALL_ROWS: Final = 200
#: 确认便宜些：实测 500 行约 2 ms，再大就会推迟别人的命令（2,000 行 11 ms）。
CONFIRM_ROWS: Final = 500

Row = TypeVar("Row", bound=tuple[Any, ...])
#: (message_id, user_id, 推的时刻, 确认的时刻)
ConfirmedRow = tuple[str, int, int, int]


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


class ConfirmedChunk(NamedTuple):
    """``receipts``：要回执的，见 ``confirm.lua``；``spoiled``：状态坏了没有记成的；``kinds``：
    第一次确认的，按种类。"""

    receipts: list[bytes]
    spoiled: list[ConfirmedRow]
    kinds: Counter[MessageKind]


def _kinds(flat: Sequence[Any]) -> Counter[MessageKind]:
    """种类是别人也写得了的键里的：不认识的都算最普通的，标签就不会越来越多。"""
    counts: Counter[tuple[bytes, bytes]] = Counter()
    for name, priority, count in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        counts[name, priority] += count
    kinds: Counter[MessageKind] = Counter()
    for (name, priority), count in counts.items():
        known = name.decode() if name in _TYPES else DEFAULT_TYPE
        kinds[MessageKind(known, int(priority) if priority in _PRIORITIES else 0)] += count
    return kinds


_TYPES: Final = frozenset(each.encode() for each in get_args(MessageType))
_PRIORITIES: Final = frozenset(b"%d" % n for n in range(MIN_PRIORITY, MAX_PRIORITY + 1))


class Outcomes:
    """``ttl_ms`` 是消息的最长寿命：墓碑活这么久，状态哈希万一要新建时也是。"""

    def __init__(self, lean: LeanConnection, keys: Keys, ttl_ms: int) -> None:
        self._lean = lean
        self._keys = keys
        self._ttl_ms = ttl_ms

    async def unconfirmed(self, user_id: int, message_ids: Sequence[str]) -> list[str]:
        """其中状态里没有这个人的确认的。"""
        states = await self._lean.execute_many(
            [("HGET", self._keys.delivery_status(i), f"u:{user_id}") for i in message_ids],
            tolerant=True,  # 状态坏了的再记一次：记录（SQL）自己认得
        )
        return [
            message_id
            for message_id, state in zip(message_ids, states, strict=True)
            if not isinstance(state, bytes) or not state.startswith(b"delivered")
        ]

    async def confirm(self, rows: Sequence[ConfirmedRow]) -> AsyncIterator[ConfirmedChunk]:
        """记下确认，一段一段地；同一条消息的相邻时最快。"""
        for start in range(0, len(rows), CONFIRM_ROWS):
            chunk = rows[start : start + CONFIRM_ROWS]
            args: list[Argument] = [self._keys.prefix, self._ttl_ms]
            args += chain.from_iterable(chunk)
            receipts, spoiled, kinds, over = await _confirm.run(self._lean, (), args)
            failed = [chunk[at] for at in spoiled] if spoiled else []
            yield ConfirmedChunk(receipts, failed, _kinds(kinds))
            if over:
                await self._lean.execute_many(list(self._leaving(over)))

    def _leaving(self, over: Iterable[bytes]) -> Iterator[Command]:
        """对谁都完结了的：正文与状态不必等到过期。"""
        for message_id in map(bytes.decode, over):
            for key in (
                self._keys.message_body(message_id),
                self._keys.delivery_status(message_id),
            ):
                yield ("PEXPIRE", key, OVER_LINGERS_MS, "LT")

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

    async def reached(self, pairs: Sequence[tuple[str, int]]) -> list[bool]:
        """各条（message_id, user_id）到没到过他的信箱：还在，在续传日志里，或立了墓碑。"""
        places = (self._keys.mailbox, self._keys.message_log, self._keys.expired_messages)
        found: list[bool] = []
        for chunk in _chunks(pairs, CALL_ROWS):
            replies = await self._lean.execute_many(
                [("ZSCORE", key(user_id), i) for i, user_id in chunk for key in places],
                tolerant=True,  # 键坏了的：没有到
            )
            seen = iter(isinstance(one, bytes) for one in replies)
            found += [any(one) for one in zip(*[seen] * len(places), strict=True)]
        return found

    async def _run(
        self, script: Script, head: Sequence[Argument], rows: Sequence[Row]
    ) -> list[Any]:
        replies: list[Any] = []
        for chunk in _chunks(rows, CALL_ROWS):
            flat = [value for row in chunk for value in row]
            reply = await script.run(self._lean, (), [self._keys.prefix, *head, *flat])
            replies += reply if isinstance(reply, list) else [reply]
        return replies


def _chunks(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


# ── 死信 ─────────────────────────────────────────────────────────────────────

#: 一封：id，字段与值相间；格式见 ``fail.lua``、``reject.lua``。
RawLetter = tuple[bytes, list[bytes]]


class DeadLetterStreams:
    """失败的收件人一律在不分区的一条里，队列条目在各分区的（``partitioned``）。"""

    def __init__(self, lean: LeanConnection, keys: Keys, partitioned: Iterable[str] = ()) -> None:
        self._lean = lean
        self.streams: Final = list(dict.fromkeys([keys.dead_letter_queue, *partitioned]))
        self._scan_from = dict.fromkeys(self.streams, b"-")

    async def count(self) -> int:
        """此刻共几封。"""
        return sum(await self._lean.execute_many([("XLEN", one) for one in self.streams]))

    async def newest(self, before: str | None, count: int) -> list[RawLetter]:
        """每条流里 ``before`` 之前（None：最新）的至多 ``count`` 封。"""
        start = "+" if before is None else f"({before}"
        return await self._all(
            ("XREVRANGE", one, start, "-", "COUNT", count) for one in self.streams
        )

    async def find(self, ids: Iterable[str]) -> list[RawLetter]:
        return await self._all(("XRANGE", one, i, i) for i in ids for one in self.streams)

    async def _all(self, ranges: Iterable[Sequence[Argument]]) -> list[RawLetter]:
        replies = await self._lean.execute_many(list(ranges))
        return [letter for reply in replies for letter in reply]

    async def scan(self, stream: str, count: int) -> list[RawLetter]:
        """从旧到新的下一段；到头之后从头再来。"""
        letters: list[RawLetter] = await self._lean.execute(
            "XRANGE", stream, self._scan_from[stream], "+", "COUNT", count
        )
        self._scan_from[stream] = b"(" + letters[-1][0] if len(letters) == count else b"-"
        return letters

    async def delete(self, ids: Sequence[str], streams: Sequence[str] = ()) -> None:
        """在这几条流里（没有给：全部）。"""
        commands = [("XDEL", one, *ids) for one in streams or self.streams]
        await self._lean.execute_many(commands)
