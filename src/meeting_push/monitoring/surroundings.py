"""隔几秒去看一遍、抓取时只说看到了什么：队列、Redis 自己说的、没有确认的、这台机器。

Redis 不在就不知道，不说旧的。
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
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


class Surroundings:
    """``run`` 须由监督者一直运行。``count_dead``：死信几封。"""

    def __init__(
        self,
        redis: RedisService,
        queue: MessageQueue,
        count_dead: Callable[[], Awaitable[int]],
        count_online: Callable[[], Awaitable[int]],
        host: Host,
        unacked: Callable[[], Awaitable[Unanswered]] | None,
    ) -> None:
        """``count_online``：在线的人；``unacked``：连着的人没有确认的；没有连接的角色没有它。"""
        self._redis = redis
        self._queue = queue
        self._count_dead = count_dead
        self._count_online = count_online
        self._host = host
        self._count_unacked = unacked
        self._unacked: Unanswered | None = None
        self._info: RedisInfo | None = None
        self._lengths: Sequence[QueueLength] = ()
        self._dead: int | None = None
        self._online: int | None = None

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.look, partial(asyncio.sleep, EVERY_S))

    async def look(self) -> None:
        await asyncio.to_thread(self._host.look)  # 挂着的盘不能占住循环
        if self._count_unacked is not None:
            self._unacked = await self._count_unacked()
        try:
            self._info = await self._redis.info()
            self._lengths = await self._queue.lengths()
            self._dead = await self._count_dead()
            self._online = await self._count_online()
        except MeetingPushError:  # 不在自有别人说
            self._info, self._lengths, self._dead, self._online = None, (), None, None

    def samples(self) -> Iterator[Sample]:
        yield from self._host.samples()
        if self._unacked is not None:
            count, oldest_s = self._unacked
            text = "messages pushed to connected devices and not acknowledged"
            yield Sample("unacked_messages", "gauge", text, count)
            text = "since the longest waiting of them was pushed"
            yield Sample("unacked_oldest_age_seconds", "gauge", text, oldest_s, scope="process")
        if self._info is not None:
            yield from info_samples(self._info)
        for one in self._lengths:
            yield from self._queue_samples(one)
        if self._dead is not None:
            text = "entries in the dead-letter queues"
            yield Sample("dead_letters", "gauge", text, self._dead, scope="shared")
        if self._online is not None:
            text = "users online on any node"
            yield Sample("online_users", "gauge", text, self._online, scope="shared")

    def _queue_samples(self, one: QueueLength) -> Iterator[Sample]:
        labels = {"queue": one.name.removeprefix(self._redis.keys.prefix)}
        figures = [
            ("length", "entries in the queue", one.length),
            ("pending", "taken and not settled yet", one.pending),
            ("oldest_age_seconds", "its oldest entry that is due", one.oldest_age_ms / 1000),
        ]
        if one.name in self._queue.streams.bounded:
            fill = one.length / self._queue.max_length
            figures.append(("fill_ratio", "its length, of the limit", fill))
        for name, text, value in figures:
            yield Sample(f"queue_{name}", "gauge", text, value, labels, "shared")
