"""消费者有没有进展：队列里有东西而没人动，就不该说自己就绪（LESSONS 20）。"""

from __future__ import annotations

from ..clock import Clock, now_ms
from ..errors import UnavailableError
from .message_consumer import ConsumerPool
from .message_queue import MessageQueue


class ConsumerProgress:
    """``check`` 是一项健康检查；都在动时不问 Redis。"""

    def __init__(
        self, pool: ConsumerPool, queue: MessageQueue, stall_s: float, *, clock: Clock = now_ms
    ) -> None:
        self._pool = pool
        self._queue = queue
        self._stall_ms = int(stall_s * 1000)
        self._clock = clock

    async def check(self) -> None:
        """:raises UnavailableError: 有消费者停着不动，而队列不空"""
        since = self._clock() - self._stall_ms
        stalled = [one.name for one in self._pool.statistics() if one.last_progress < since]
        if stalled and await self._queue.waiting():
            raise UnavailableError(f"no progress: {', '.join(stalled)}")
