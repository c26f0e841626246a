"""隔几秒去看一遍、抓取时只说看到了什么：这台机器、没有确认的；大家看着的同一样东西。

Redis 不在就不知道，不说旧的。
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..errors import MeetingPushError
from ..queue.message_queue import MessageQueue, QueueLength
from ..redis.redis_service import RedisInfo, RedisService
from ..supervision import periodically
from ..websocket.manager import Unanswered
from .metrics import Sample
from .process import Host
from .store_samples import info_samples

EVERY_S: Final = 5.0
#: 每看几遍数一遍来过的人：并几十格，约 2 ms 的 Redis。
ACTIVE_EVERY: Final = 12


@dataclass(frozen=True, slots=True)
class Counts:
    """去数：死信几封，在线几人，各窗口里来过几人。"""

    dead: Callable[[], Awaitable[int]]
    online: Callable[[], Awaitable[int]]
    active: Callable[[], Awaitable[Mapping[str, int]]]


class SharedFigures:
    """大家看着的同一样东西：队列、死信、在线与来过的人、Redis 自己说的（``INFO``）。

    一个 serve 里只有 ``is_mine`` 的那个进程去看（决定 0013）：谁看都一样，不必人人问 Redis。
    它死了，下一遍就由别人看。
    """

    def __init__(
        self,
        redis: RedisService,
        queue: MessageQueue,
        counts: Counts,
        is_mine: Callable[[], bool],
    ) -> None:
        self._redis = redis
        self._queue = queue
        self._counts = counts
        self._is_mine = is_mine
        self._forget()

    def _forget(self) -> None:
        self._rounds = 0
        self._info: RedisInfo | None = None
        self._lengths: Sequence[QueueLength] = ()
        self._dead: int | None = None
        self._online: int | None = None
        self._active: Mapping[str, int] = {}

    async def look(self) -> None:
        if not self._is_mine():
            self._forget()
            return
        try:
            await self._read()
        except MeetingPushError:  # 不在自有别人说
            self._forget()

    async def _read(self) -> None:
        self._info = await self._redis.info()
        self._lengths = await self._queue.lengths()
        self._dead = await self._counts.dead()
        self._online = await self._counts.online()
        if self._rounds % ACTIVE_EVERY == 0:
            self._active = await self._counts.active()
        self._rounds += 1

    def samples(self) -> Iterator[Sample]:
        if self._info is not None:
            yield from info_samples(self._info)
        for name, parts in self._queues().items():
            yield from self._queue_samples(name, parts)
        if self._dead is not None:
            text = "entries in the dead-letter queues"
            yield Sample("dead_letters", "gauge", text, self._dead, scope="shared")
        if self._online is not None:
            text = "users online on any node"
            yield Sample("online_users", "gauge", text, self._online, scope="shared")
        text = "users who were online or acknowledged something in the window (estimate)"
        for window, count in self._active.items():
            yield Sample("active_users", "gauge", text, count, {"window": window}, "shared")

    def _queues(self) -> dict[str, list[QueueLength]]:
        """一条队列的各分区合在一起：规则、曲线认得队列的名字，不认得分区。"""
        queues: dict[str, list[QueueLength]] = {}
        for one in self._lengths:
            name, _, _ = one.name.removeprefix(self._redis.keys.prefix).partition(":")
            queues.setdefault(name, []).append(one)
        return queues

    def _queue_samples(self, name: str, parts: Sequence[QueueLength]) -> Iterator[Sample]:
        figures = [
            ("length", "entries in the queue", sum(one.length for one in parts)),
            ("pending", "taken and not settled yet", sum(one.pending for one in parts)),
            (
                "oldest_age_seconds",
                "its oldest entry that is due",
                max(one.oldest_age_ms for one in parts) / 1000,
            ),
        ]
        if parts[0].name in self._queue.streams.bounded:
            fill = max(one.length for one in parts) / self._queue.max_length
            figures.append(("fill_ratio", "its length, of the limit (the fullest partition)", fill))
        for figure, text, value in figures:
            yield Sample(f"queue_{figure}", "gauge", text, value, {"queue": name}, "shared")


class Surroundings:
    """``run`` 须由监督者一直运行。``unacked``：连着的人没有确认的；没有连接的角色没有它。"""

    def __init__(
        self,
        host: Host,
        shared: SharedFigures,
        unacked: Callable[[], Awaitable[Unanswered]] | None,
    ) -> None:
        self._host = host
        self._shared = shared
        self._count_unacked = unacked
        self._unacked: Unanswered | None = None

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.look, partial(asyncio.sleep, EVERY_S))

    async def look(self) -> None:
        await asyncio.to_thread(self._host.look)  # 挂着的盘不能占住循环
        if self._count_unacked is not None:
            self._unacked = await self._count_unacked()
        await self._shared.look()

    def samples(self) -> Iterator[Sample]:
        yield from self._host.samples()
        if self._unacked is not None:
            count, oldest_s = self._unacked
            text = "messages pushed to connected devices and not acknowledged"
            yield Sample("unacked_messages", "gauge", text, count)
            text = "since the longest waiting of them was pushed"
            yield Sample("unacked_oldest_age_seconds", "gauge", text, oldest_s, scope="process")
        yield from self._shared.samples()
