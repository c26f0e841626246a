"""结局的 Redis 操作：确认、认领重试、失败与过期、重新入队；死信。

错误同 ``LeanConnection.execute``。
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeVar, get_args

from ..model import DEFAULT_TYPE, MAX_PRIORITY, MIN_PRIORITY, MessageKind, MessageType
from .bodies import OVER_LINGERS_MS
from .keys import Keys, QueueKeys, home_of
from .lean import LeanConnection, Script
from .link import Argument, Command
from .mailboxes import MAX_TOMBSTONES

_confirm: Final = Script("here", "guard", "confirm")
_retry: Final = Script("retry")
_fail: Final = Script("guard", "fail")
_expire: Final = Script("expire")
_entomb: Final = Script("entomb")
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
    第一次确认的，按种类；``leaving``：谁也不再等的，正文不必等到过期，随后的哪次写出带上都行。"""

    receipts: list[bytes]
    spoiled: list[ConfirmedRow]
    kinds: Counter[MessageKind]
    leaving: list[Command]


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
    """``ttl_ms`` 是消息的最长寿命：墓碑活这么久，状态哈希万一要新建时也是。

    一段脚本只碰一种键：各消息的，或各用户的；跨着两种的分几步，次序见决定 0018。
    """

    def __init__(
        self, lean: LeanConnection, keys: Keys, ttl_ms: int, partitions: Sequence[QueueKeys] = ()
    ) -> None:
        """:param partitions: 没有给：不分区"""
        self._lean = lean
        self._keys = keys
        self._ttl_ms = ttl_ms
        self._partitions = partitions or QueueKeys.of(keys, 1)

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
        """记下确认，一段一段地；同一条消息的相邻时最快。

        迟到的（失败、过期之后才来的）先收回死信与墓碑，再记：死在中间的再来一遍。
        """
        for chunk in _chunks(rows, CONFIRM_ROWS):
            late: list[tuple[ConfirmedRow, bytes]] = []
            async for one, overdue in self._confirm(chunk, overruling=False):
                yield one
                late += overdue
            if late:
                await self._take_back(late)
                overdue_rows = [row for row, _ in late]
                async for one, _ in self._confirm(overdue_rows, overruling=True):
                    yield one

    async def _confirm(
        self, rows: Sequence[ConfirmedRow], *, overruling: bool
    ) -> AsyncIterator[tuple[ConfirmedChunk, list[tuple[ConfirmedRow, bytes]]]]:
        """一次调用一份；没有记的（迟到的）与它们的死信。"""
        ttl_ms, lingers_ms = self._ttl_ms, OVER_LINGERS_MS
        head: list[Argument] = [self._keys.prefix, ttl_ms, int(overruling), lingers_ms]
        body = self._keys.message_body
        for some, answer in await _confirm.by_master(self._lean, head, rows, self._status_of):
            receipts, spoiled, kinds, late, over = answer
            failed = [rows[some[at]] for at in spoiled]
            overdue = [(rows[some[at]], i) for at, i in zip(late[::2], late[1::2], strict=True)]
            leaving: list[Command] = [("PEXPIRE", body(i.decode()), lingers_ms, "LT") for i in over]
            yield ConfirmedChunk(receipts, failed, _kinds(kinds), leaving), overdue

    async def _take_back(self, late: Iterable[tuple[ConfirmedRow, bytes]]) -> None:
        """死信与墓碑；键坏了的略过。"""
        keys = self._keys
        commands: list[Command] = []
        for (message_id, user_id, *_), letter in late:
            commands.append(("ZREM", keys.expired_messages(user_id), message_id))
            commands.append(("ZREM", keys.evicted_messages(user_id), message_id))
            if letter:
                commands.append(("XDEL", keys.dead_letter_queue, letter))
        await self._lean.execute_many(commands, tolerant=True)

    async def claim(
        self, rows: Sequence[tuple[str, int, int]], max_attempts: int, now: int
    ) -> list[Claimed]:
        """认领 (message_id, user_id, 所知的次数)，结果次序不变；一次重试只有一个人认领到。

        记下次数在先，放进延迟队列在后：死在中间的这一次没有推，下一次照推；它一直在信箱里。
        """
        mailbox = self._keys.mailbox
        held = await self._lean.execute_many(
            [("ZSCORE", mailbox(user_id), message_id) for message_id, user_id, _ in rows]
        )
        present = [at for at, score in enumerate(held) if score is not None]
        answers = await self._each(_retry, [now, max_attempts], [rows[at] for at in present], 4)
        claims = [Claimed(Verdict.GONE, 0)] * len(rows)
        delayed: list[Command] = []
        for at, (verdict, attempts, priority, expires_at) in zip(present, answers, strict=True):
            claims[at] = Claimed(Verdict(verdict), attempts)
            if verdict == Verdict.CLAIMED:
                message_id, user_id, _ = rows[at]
                member = (
                    b'%b{"message_id":"%b","recipient_ids":[%d],"priority":%b,"expires_at":%b,'
                    b'"attempt":%d}'
                    % (priority, message_id.encode(), user_id, priority, expires_at, attempts)
                )
                delayed.append(("ZADD", self._delayed_of(message_id), now, member))
        if delayed:
            await self._lean.execute_many(delayed)
        return claims

    async def fail(
        self, rows: Sequence[tuple[str, int, bytes]], reason: str, now: int
    ) -> list[int | bytes]:
        """记 (message_id, user_id, 条目) 为失败；每条的结果见 ``fail.lua``。

        死信在先，状态在后，最后移出信箱：死在中间的，多一封死信，不少。
        """
        verdicts: list[int | bytes] = []
        for chunk in _chunks(rows, CALL_ROWS):
            verdicts += await self._fail(chunk, reason, now)
        return verdicts

    async def _fail(
        self, rows: Sequence[tuple[str, int, bytes]], reason: str, now: int
    ) -> list[int | bytes]:
        letters = await self._bury(rows, reason)
        verdicts: list[int | bytes] = [-1] * len(rows)
        fit = [at for at, letter in enumerate(letters) if letter is not None]
        some = [(*rows[at][:2], letters[at] or b"") for at in fit]
        answers = await self._each(_fail, [now, reason, self._ttl_ms], some, 1)
        for at, (verdict,) in zip(fit, answers, strict=True):
            verdicts[at] = verdict
        # 别人先记下了的、确认先到了的：自己那一封多余
        if spare := [letters[at] for at in fit if letters[at] and verdicts[at] != 1]:
            await self._lean.execute("XDEL", self._keys.dead_letter_queue, *filter(None, spare))
        gone = [at for at in fit if verdicts[at] in (0, 1)]
        mailbox = self._keys.mailbox
        removed = await self._lean.execute_many(
            [("ZREM", mailbox(rows[at][1]), rows[at][0]) for at in gone], tolerant=True
        )
        for at, answer in zip(gone, removed, strict=True):
            if isinstance(answer, Exception):
                verdicts[at] = -1
        return verdicts

    async def _bury(
        self, rows: Sequence[tuple[str, int, bytes]], reason: str
    ) -> list[bytes | None]:
        """各条的死信的 id；不该有的是空串，写不成的（那条流坏了）是 None。"""
        if not any(entry for *_, entry in rows):
            return [b""] * len(rows)
        states = await self._states(rows)
        queue = self._keys.dead_letter_queue
        wanted = [
            at
            for at, (state, (*_, entry)) in enumerate(zip(states, rows, strict=True))
            if entry and (state is None or (isinstance(state, bytes) and not _is_over(state)))
        ]
        fields = ("reason", reason, "queue", "mailbox")
        written = await self._lean.execute_many(
            [("XADD", queue, "*", "v", "1", "entry", rows[at][2], *fields) for at in wanted],
            tolerant=True,
        )
        letters: list[bytes | None] = [b""] * len(rows)
        for at, letter in zip(wanted, written, strict=True):
            letters[at] = None if isinstance(letter, Exception) else letter
        return letters

    async def _states(self, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        """各 (message_id, user_id, …) 的状态；坏了的是异常。"""
        status = self._keys.delivery_status
        return await self._lean.execute_many(
            [("HGET", status(one[0]), f"u:{one[1]}") for one in rows], tolerant=True
        )

    async def requeue(self, rows: Sequence[tuple[str, int, int, int, bytes]], now: int) -> int:
        """(message_id, user_id, 优先级, 过期时刻, 条目) 从头再来，返回放进去几条。

        先移出续传日志（它将得到新的 seq，旧 seq 的洞由 resync 明说），放进延迟队列；死信与状态在
        后：死在中间的，死信还在，或已在队列里，再来一遍无害。
        """
        count = 0
        for chunk in _chunks(rows, CALL_ROWS):
            states = await self._states(chunk)
            todo = [
                (row, state or b"")
                for row, state in zip(chunk, states, strict=True)
                if not (isinstance(state, bytes) and state.startswith(b"delivered"))
            ]
            if broken := [state for _, state in todo if isinstance(state, Exception)]:
                raise broken[0]
            await self._requeue([row for row, _ in todo], now)
            letters = [letter for _, state in todo if (letter := _letter_of(state))]
            if letters:
                await self._lean.execute("XDEL", self._keys.dead_letter_queue, *letters)
            head: list[Argument] = [self._keys.prefix, self._ttl_ms]
            fresh = [row[:4] for row, _ in todo]
            await _requeue.by_slot(self._lean, head, fresh, self._status_of)
            count += len(todo)
        return count

    async def _requeue(self, rows: Sequence[tuple[str, int, int, int, bytes]], now: int) -> None:
        """移出续传日志，放进延迟队列。"""
        keys = self._keys
        held = await self._lean.execute_many(
            [("ZSCORE", keys.mailbox(user_id), message_id) for message_id, user_id, *_ in rows]
        )
        await self._lean.execute_many(
            [
                ("ZREM", keys.message_log(user_id), message_id)
                for (message_id, user_id, *_), score in zip(rows, held, strict=True)
                if score is None
            ]
        )
        await self._lean.execute_many(
            [
                ("ZADD", self._delayed_of(message_id), now, b"%d%b" % (priority, entry))
                for message_id, _, priority, _, entry in rows
            ]
        )

    async def expire(self, rows: Sequence[tuple[str, int, int]]) -> None:
        """(message_id, user_id, 过期时刻) 过期了：记下，移出信箱，没确认过的留下墓碑。"""
        for chunk in _chunks(rows, CALL_ROWS):
            confirmed = await self._each(_expire, [], chunk, 1)
            stones = [(*row[:2], one) for row, (one,) in zip(chunk, confirmed, strict=True)]
            head: list[Argument] = [self._keys.prefix, self._ttl_ms, MAX_TOMBSTONES]
            await _entomb.by_slot(self._lean, head, stones, self._boxes_of)

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

    # ── 一次调用一个槽 ────────────────────────────────────────────────────────

    def _status_of(self, row: Sequence[Any]) -> Sequence[str]:
        return (self._keys.delivery_status(row[0]),)

    def _boxes_of(self, row: Sequence[Any]) -> Sequence[str]:
        return (self._keys.mailbox(row[1]), self._keys.expired_messages(row[1]))

    def _delayed_of(self, message_id: str) -> str:
        return home_of(message_id, self._partitions).delayed

    async def _each(
        self,
        script: Script,
        head: Sequence[Argument],
        rows: Sequence[tuple[Any, ...]],
        width: int,
    ) -> list[Any]:
        """记状态的一段脚本：各行的 ``width`` 个回答，次序不变。"""
        head = [self._keys.prefix, *head]
        found: list[Any] = [None] * len(rows)
        for start in range(0, len(rows), CALL_ROWS):
            chunk = rows[start : start + CALL_ROWS]
            for some, answer in await script.by_slot(self._lean, head, chunk, self._status_of):
                for n, at in enumerate(some):
                    found[start + at] = answer[n * width : (n + 1) * width]
        return found


def _is_over(state: bytes) -> bool:
    return state.startswith((b"delivered", b"failed"))


def _letter_of(state: bytes) -> bytes | None:
    """状态记着的死信的 id。"""
    found = re.match(rb"failed:.*:(\d+-\d+)$", state)
    return found[1] if found else None


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
