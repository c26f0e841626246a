"""队列的 Redis 操作：流、延迟集合、消费组里的名字。错误同 ``LeanConnection.execute``。"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..model import URGENT_PRIORITY
from .keys import DELIVERY_GROUP, Keys, QueueKeys, home_of
from .lean import LeanConnection, Script
from .link import Argument, Command, NoGroupError

_enqueue: Final = Script("enqueue")
_due: Final = Script("due")
_finish: Final = Script("finish")
_reject: Final = Script("reject")
_retire: Final = Script("retire")

#: Lua 的 unpack 有上限；再大也不会更快。
MAX_FINISH: Final = 500
#: 撤回的记号比预约的时刻多留这么久：那时还在路上的条目都已看过它。
CANCEL_MARK_MS: Final = 3_600_000
#: 说过一次“有此刻的消息”，这么久之内算数。
LIVE_TRAFFIC_MS: Final = 1_500


@dataclass(frozen=True, slots=True)
class QueueLength:
    """一条队列此刻的样子。

    ``pending``：取走而没有了结的；``lag``：还没有人取的。了结与删除是一步，所以流里的每一条
    不是 pending 就是 lag：两者由此算出，Redis 6.2 与 7 一样准。``oldest_age_ms`` 在空队列上为
    0；延迟队列的是“最早到期的已经晚了多少”。
    """

    name: str
    length: int
    pending: int
    lag: int
    oldest_age_ms: int


@dataclass(frozen=True, slots=True)
class GroupMember:
    """消费组里的一个名字；``idle_ms`` 是它上次读的时刻至今。"""

    queue: str
    name: str
    pending: int
    idle_ms: int


class QueueStreams:
    """全部分区的。每个动作在一个流上是原子的、幂等的；已被别人了结的条目不受影响。"""

    def __init__(self, lean: LeanConnection, keys: Keys, partitions: Sequence[QueueKeys]) -> None:
        self._lean = lean
        self._keys = keys
        self._partitions = partitions
        self._streams = [stream for each in partitions for stream in each.streams]
        self._homes = {stream: each for each in partitions for stream in each.streams}

    @property
    def bounded(self) -> Sequence[str]:
        """有上限的几条：消费者读的。"""
        return self._streams

    def home(self, message_id: str) -> QueueKeys:
        return home_of(message_id, self._partitions)

    # ── 放入 ────────────────────────────────────────────────────────────────

    async def append(
        self, batches: Mapping[str, Sequence[bytes]], max_length: int
    ) -> dict[str, int]:
        """各追加一批，返回追加后的长度；-1：会超过 ``max_length``，那条的一条都没有加。"""
        lengths = await asyncio.gather(
            *(
                _enqueue.run(self._lean, [queue, known_key(queue)], [max_length, *entries])
                for queue, entries in batches.items()
            )
        )
        return dict(zip(batches, lengths, strict=True))

    async def delay(self, batches: Mapping[str, Sequence[Argument]]) -> None:
        """放进各延迟集合：到期的时刻与成员相间。"""
        if batches:
            await self._lean.execute_many([("ZADD", one, *args) for one, args in batches.items()])

    async def move_due(
        self, now: int, most: int, *, live: int, max_length: int, bulk_room: int
    ) -> int:
        """各延迟集合里到期的移进队列，返回移了几条；参数的意思见 ``due.lua``。"""
        await self._bring_home(most)
        args = [now, most, URGENT_PRIORITY, max_length]
        moved = await asyncio.gather(
            *(
                _due.run(self._lean, keys, [*args, live if fast else 0, bulk_room])
                for keys, fast in self._due_sources()
            )
        )
        return sum(moved)

    def _due_sources(self) -> list[tuple[list[str], bool]]:
        """各分区的延迟集合；假的只走慢的那条。"""
        sources = [(_due_keys(keys.delayed, keys), True) for keys in self._partitions]
        return [*sources, *((_due_keys(k.delayed_bulk, k), False) for k in self._partitions)]

    async def _bring_home(self, most: int) -> None:
        """不分区的延迟集合里留着的（分区从前只有一个）各回各的；先放进，后移出，重来无害。"""
        stray = self._keys.delayed_queue
        if self._partitions[0].delayed == stray:
            return
        flat = await self._lean.execute("ZRANGE", stray, 0, most - 1, "WITHSCORES")
        if not flat:
            return
        members = flat[::2]
        homes = [home_of(message_of(member), self._partitions).delayed for member in members]
        await self._lean.execute_many(
            [("ZADD", *one) for one in zip(homes, flat[1::2], members, strict=True)]
        )
        await self._lean.execute("ZREM", stray, *members)

    async def cancel(self, message_id: str, due_at: int, now: int) -> int:
        """留下撤回的记号，移出预约在 ``due_at`` 的，返回几项。"""
        key, home = self._keys.cancelled_messages, self.home(message_id)
        sets = (home.delayed, home.delayed_bulk)
        _, _, *found = await self._lean.execute_many(
            [
                ("ZREMRANGEBYSCORE", key, "-inf", now),
                ("ZADD", key, due_at + CANCEL_MARK_MS, message_id),
                *(("ZRANGEBYSCORE", delayed, due_at, due_at) for delayed in sets),
            ]
        )
        mark = b'"message_id":"%b"' % message_id.encode()
        removed = 0
        for delayed, members in zip(sets, found, strict=True):
            if mine := [member for member in members if mark in member]:
                removed += int(await self._lean.execute("ZREM", delayed, *mine))
        return removed

    async def cancelled(self, message_ids: Sequence[str]) -> set[str]:
        """其中留着撤回的记号的。"""
        key = self._keys.cancelled_messages
        scores = await self._lean.execute("ZMSCORE", key, *message_ids)
        return {one for one, score in zip(message_ids, scores, strict=True) if score is not None}

    # ── 此刻的 ──────────────────────────────────────────────────────────────

    def telling_live(self) -> Command:
        """有人不经队列投递着此刻的消息。"""
        return ("SET", self._keys.live_traffic, 1, "PX", LIVE_TRAFFIC_MS)

    async def told_live(self) -> bool:
        return bool(await self._lean.execute("EXISTS", self._keys.live_traffic))

    # ── 了结 ────────────────────────────────────────────────────────────────

    async def finish(self, done: Mapping[str, Sequence[tuple[bytes, bytes]]]) -> None:
        """各流里的 (id, 摘要)：确认、删除、忘掉摘要。"""
        await asyncio.gather(
            *(
                self._finish(queue, pairs[start : start + MAX_FINISH])
                for queue, pairs in done.items()
                for start in range(0, len(pairs), MAX_FINISH)
            )
        )

    def _finish(self, queue: str, pairs: Sequence[tuple[bytes, bytes]]) -> Awaitable[Any]:
        ids, digests = zip(*pairs, strict=True)
        keys = (queue, known_key(queue), _errors_key(queue))
        return _finish.run(self._lean, keys, [DELIVERY_GROUP, len(pairs), *ids, *digests])

    async def bury(
        self, queue: str, entry_id: bytes, digest: bytes, raw: bytes, reason: str
    ) -> None:
        """带着原因（与记下的意外）移进死信。"""
        dead = self._homes[queue].dead_letter
        await self._reject(queue, dead, [entry_id, digest, raw, "", reason, queue])

    async def postpone(
        self, queue: str, entry_id: bytes, digest: bytes, member: bytes, due_at: int
    ) -> None:
        """放回延迟集合。"""
        delayed = self._homes[queue].delayed
        await self._reject(queue, delayed, [entry_id, digest, member, due_at])

    async def _reject(self, queue: str, into: str, args: Sequence[Argument]) -> None:
        keys = (into, queue, known_key(queue), _errors_key(queue))
        await _reject.run(self._lean, keys, [DELIVERY_GROUP, *args])

    async def note_error(self, queue: str, entry_id: bytes, error: str) -> None:
        """它进死信时随它去。"""
        await self._lean.execute("HSET", _errors_key(queue), entry_id, error)

    async def hold(self, consumer: str, held: Mapping[str, Sequence[bytes]]) -> None:
        """各流里的这些 id 还在 ``consumer`` 手里：闲置与取出的次数都从头算。"""
        await self._lean.execute_many(
            [
                ("XCLAIM", queue, DELIVERY_GROUP, consumer, 0, *ids, "RETRYCOUNT", 1, "JUSTID")
                for queue, ids in held.items()
            ]
        )

    async def clear(self) -> None:
        """丢掉全部条目，死信除外：只在 Redis 丢过数据之后，随后从记录重新放入。"""
        for keys in self._partitions:
            extra = [of(stream) for stream in keys.streams for of in (known_key, _errors_key)]
            gone = (*keys.streams, keys.delayed, keys.delayed_bulk, *extra)
            await self._lean.unlink(gone)

    # ── 观察 ────────────────────────────────────────────────────────────────

    async def fast_lengths(self) -> dict[str, int]:
        """不算慢的那条。"""
        streams = [queue for each in self._partitions for queue in (each.delivery, each.priority)]
        return dict(zip(streams, await self._lengths(streams), strict=True))

    async def backlog(self) -> int:
        """流里还有多少条（包括正在处理的）。"""
        return sum(await self._lengths(self._streams))

    async def _lengths(self, streams: Sequence[str]) -> list[int]:
        return await self._lean.execute_many([("XLEN", stream) for stream in streams])

    async def lengths(self, now: int) -> list[QueueLength]:
        rows = [await self._stream(name, now) for name in self._streams]
        for keys in self._partitions:
            length, age = await self._length_and_age(keys.dead_letter, now)
            rows.append(QueueLength(keys.dead_letter, length, 0, 0, age))
            rows += [await self._delayed(name, now) for name in (keys.delayed, keys.delayed_bulk)]
        return rows

    async def _stream(self, name: str, now: int) -> QueueLength:
        length, age = await self._length_and_age(name, now)
        summary = await self._of_group("XPENDING", name, DELIVERY_GROUP)
        pending = int(summary[0]) if summary else 0
        return QueueLength(name, length, pending, max(0, length - pending), age)

    async def _length_and_age(self, name: str, now: int) -> tuple[int, int]:
        length, first = await self._lean.execute_many(
            [("XLEN", name), ("XRANGE", name, "-", "+", "COUNT", 1)]
        )
        return length, max(0, now - int(first[0][0].split(b"-")[0])) if first else 0

    async def _delayed(self, name: str, now: int) -> QueueLength:
        length, first = await self._lean.execute_many(
            [("ZCARD", name), ("ZRANGE", name, 0, 0, "WITHSCORES")]
        )
        late = now - int(float(first[1])) if first else 0
        return QueueLength(name, length, 0, 0, max(0, late))

    # ── 消费组 ───────────────────────────────────────────────────────────────

    async def members(self) -> list[GroupMember]:
        """各流的消费组里的全部名字。"""
        members = []
        for queue in self._streams:
            for flat in await self._of_group("XINFO", "CONSUMERS", queue, DELIVERY_GROUP) or ():
                info: dict[bytes, Any] = dict(zip(flat[::2], flat[1::2], strict=True))
                members.append(
                    GroupMember(queue, info[b"name"].decode(), info[b"pending"], info[b"idle"])
                )
        return members

    async def _of_group(self, *command: str) -> Any:
        try:
            return await self._lean.execute(*command)
        except NoGroupError:
            return None

    async def retire(self, name: str) -> None:
        """把一个消费者除名；它手里还有的那条流上留着，等别人认领完。"""
        for queue in self._streams:
            with contextlib.suppress(NoGroupError):
                await _retire.run(self._lean, [queue], [DELIVERY_GROUP, name])

    async def retire_idle(self, idle_ms: int) -> int:
        """除去闲了这么久、手里已空的名字（它的进程死了），返回几个。"""
        idle = {m.name for m in await self.members() if m.idle_ms >= idle_ms and not m.pending}
        for name in idle:
            await self.retire(name)
        return len(idle)


def message_of(member: bytes) -> str:
    """延迟集合的一项是谁的；认不出的都归一处，取的人再说。"""
    found = re.search(rb'"message_id":"([^"]*)"', member)
    return found[1].decode(errors="replace") if found else ""


def known_key(stream: str) -> str:
    """哈希：条目摘要 → 它在流里的 id；去重用，与流一样大。"""
    return f"{stream}:known"


def _errors_key(stream: str) -> str:
    """哈希：流里的 id → 处理它时最后一次意外；只有出过错的才有。"""
    return f"{stream}:errors"


def _due_keys(delayed: str, keys: QueueKeys) -> list[str]:
    streams = [keys.delivery, keys.priority, keys.bulk]
    return [delayed, *streams, *map(known_key, streams)]
