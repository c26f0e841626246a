"""队列此刻的样子：长度、积压、年龄、消费者、余地；以及把死了的消费者除名。"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..clock import Clock
from ..errors import MeetingPushError, QueueFullError
from ..redis.keys import DELIVERY_GROUP, QueueKeys
from ..redis.lean import Script
from ..redis.redis_service import RedisService

_retire: Final = Script("retire")


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


class QueueStatistics:
    def __init__(self, redis: RedisService, partitions: Sequence[QueueKeys], clock: Clock) -> None:
        self._redis = redis
        self._partitions = partitions
        self._streams = [stream for keys in partitions for stream in keys.streams]
        self._clock = clock

    async def lengths(self) -> list[QueueLength]:
        rows = [await self._stream(name) for name in self._streams]
        for keys in self._partitions:
            rows.append(await self._dead_letters(keys.dead_letter))
            rows += [await self._delayed(name) for name in (keys.delayed, keys.delayed_bulk)]
        return rows

    async def backlog(self) -> int:
        """流里还有多少条（包括正在处理的）。"""
        return sum(await self._redis.lean.execute_many([("XLEN", name) for name in self._streams]))

    async def members(self) -> list[GroupMember]:
        """各流的消费组里的全部名字。"""
        members = []
        for queue in self._streams:
            for flat in await self._group("XINFO", "CONSUMERS", queue, DELIVERY_GROUP) or ():
                info: dict[bytes, Any] = dict(zip(flat[::2], flat[1::2], strict=True))
                members.append(
                    GroupMember(queue, info[b"name"].decode(), info[b"pending"], info[b"idle"])
                )
        return members

    async def retire(self, name: str) -> None:
        """把一个消费者除名；它手里还有的那条流上留着，等别人认领完。"""
        for queue in self._streams:
            try:
                await _retire.run(self._redis.lean, [queue], [DELIVERY_GROUP, name])
            except MeetingPushError as error:
                if not _no_group(error):
                    raise

    async def retire_idle(self, idle_ms: int) -> int:
        """除去闲了这么久、手里已空的名字（它的进程死了），返回几个。"""
        idle = {m.name for m in await self.members() if m.idle_ms >= idle_ms and not m.pending}
        for name in idle:
            await self.retire(name)
        return len(idle)

    async def _stream(self, name: str) -> QueueLength:
        lean = self._redis.lean
        length, first = await lean.execute_many(
            [("XLEN", name), ("XRANGE", name, "-", "+", "COUNT", 1)]
        )
        summary = await self._group("XPENDING", name, DELIVERY_GROUP)
        pending = int(summary[0]) if summary else 0
        return QueueLength(name, length, pending, max(0, length - pending), self._age(first))

    async def _dead_letters(self, name: str) -> QueueLength:
        length, first = await self._redis.lean.execute_many(
            [("XLEN", name), ("XRANGE", name, "-", "+", "COUNT", 1)]
        )
        return QueueLength(name, length, 0, 0, self._age(first))

    async def _delayed(self, name: str) -> QueueLength:
        length, first = await self._redis.lean.execute_many(
            [("ZCARD", name), ("ZRANGE", name, 0, 0, "WITHSCORES")]
        )
        late = self._clock() - int(float(first[1])) if first else 0
        return QueueLength(name, length, 0, 0, max(0, late))

    async def _group(self, *command: str) -> Any:
        try:
            return await self._redis.lean.execute(*command)
        except MeetingPushError as error:
            if not _no_group(error):
                raise
            return None

    def _age(self, first: Sequence[Sequence[bytes]]) -> int:
        return max(0, self._clock() - int(first[0][0].split(b"-")[0])) if first else 0


def _no_group(error: MeetingPushError) -> bool:
    """流或消费组还不存在（XINFO 说 no such key）。"""
    return "NOGROUP" in error.message or "no such key" in error.message


# ── 余地（E9） ───────────────────────────────────────────────────────────────
# 接受只需要 SQL；Redis 挂着不答时，去问一声长度就是让每个 POST 等它的超时。所以长度由旁边的循环
# 去看，入队的回答顺便告诉它；太旧了就是不知道，不知道就接受：多收的在发件箱里等着。

#: 多久看一次；这么久以内的还算知道。
LOOK_EVERY_S: Final = 0.25
FRESH_S: Final = 1.0


class QueueRoom:
    """``run`` 由监督者一直运行；``look`` 给出每条队列此刻的长度。"""

    def __init__(
        self,
        look: Callable[[], Awaitable[Mapping[str, int]]],
        max_length: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._max_length = max_length
        self._clock = clock
        #: 队列 → （何时知道的，长度）。
        self._known: dict[str, tuple[float, int]] = {}

    def check(self) -> None:
        """:raises QueueFullError: 知道有一条满了"""
        since = self._clock() - FRESH_S
        if any(at >= since and length >= self._max_length for at, length in self._known.values()):
            raise QueueFullError("the delivery queue is full", retry_after_s=1)

    def learn(self, lengths: Mapping[str, int]) -> None:
        """刚知道的长度；-1 是入队时得知的“满了”。"""
        now = self._clock()
        for queue, length in lengths.items():
            self._known[queue] = (now, self._max_length if length < 0 else length)

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        while True:
            try:
                self.learn(await self._look())
            except MeetingPushError:
                self._known.clear()  # 不知道；Redis 不在自有别人说
            await asyncio.sleep(LOOK_EVERY_S)
