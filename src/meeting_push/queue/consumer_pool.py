"""消费者的池：随积压增减；移出到期的延迟条目；把死了的消费者从消费组除名。"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from functools import partial
from typing import Final

from ..errors import UnavailableError
from ..logs import RepeatedWarning, logger
from ..supervision import SupervisedLoop, Supervisor, periodically
from .message_consumer import ConsumerStatistics, MessageConsumer
from .message_queue import MessageQueue
from .room import LIVE_LOOK_S

ADJUST_EVERY_S: Final = LIVE_LOOK_S
MOVE_EVERY_S: Final = 0.2
#: 清闲了连续这么多次才减一个：忙闲交替时不来回增减。
SHRINK_AFTER: Final = 10
#: 闲了这么久、手里已空的名字，它的进程早已不在。
RETIRE_IDLE_MS: Final = 300_000
#: 卡住的从头来过：比它做完手里的（``message_consumer.FINISH_WITHIN_S``）再多等一点。
RESTART_WITHIN_S: Final = 8.0
RETIRE_EVERY: Final = 60  # 次调整
#: 隔这么多次调整看一眼从前的分区。
STRAYS_EVERY: Final = 5


class ConsumerPool:
    """``least``、``most`` 是个数的界；``make(i)`` 造第 i 个（没有启动）。

    ``stuck_after_s`` 没有进展就是卡住了：要长于最长的阻塞与一批的处理。

    每个消费者每秒能处理的远多于一批，所以积压超过“每人一批”就说明人手不够（多半在等 SQL
    或 Redis 的往返）。同一个进程里多几个任务不增加 CPU，只盖住等待；要 CPU 就多开进程。
    """

    def __init__(
        self,
        make: Callable[[int], MessageConsumer],
        queue: MessageQueue,
        *,
        least: int,
        most: int,
        entries_each: int,
        stuck_after_s: float = 30.0,
    ) -> None:
        self._make = make
        self._queue = queue
        self._least = least
        self._most = max(least, most)
        self._entries_each = entries_each
        self._stuck_after_s = stuck_after_s
        self._consumers: list[MessageConsumer] = []  # 造过的都留着：减了再增用回同一个
        self._loops: list[SupervisedLoop] = []
        self._calm = 0
        self._not_adjusted = RepeatedWarning("pool_not_adjusted")
        self._not_moved = RepeatedWarning("move_due_failed")
        self._supervisor: Supervisor | None = None
        self._adjusting: SupervisedLoop | None = None

    @property
    def size(self) -> int:
        """正在工作的有几个。"""
        return len(self._loops)

    def start(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        while len(self._loops) < self._least:
            self._grow(supervisor)
        self._adjusting = supervisor.start("consumer-pool", lambda: self._run(supervisor))
        supervisor.start("delayed-mover", self._move_due)

    async def drain(self) -> None:
        """不再取；各消费者做完手里的、从消费组除名之后返回（见 ``MessageConsumer.run``）。"""
        if self._supervisor is None or self._adjusting is None:
            return
        await self._supervisor.remove(self._adjusting)  # 先停它，否则它会把人添回来
        self._adjusting = None
        loops, self._loops = self._loops, []
        await asyncio.gather(*map(self._supervisor.remove, loops))

    def statistics(self) -> list[ConsumerStatistics]:
        return [consumer.statistics for consumer in self._consumers]

    @property
    def working(self) -> int:
        """此刻在做的有几个。"""
        return len(self._loops)

    async def check(self) -> None:
        """:raises UnavailableError: 有消费者卡住了"""
        working = self._consumers[: len(self._loops)]
        stuck = [one.name for one in working if one.silent_for_s > self._stuck_after_s]
        if stuck:
            raise UnavailableError(f"consumers without progress: {len(stuck)}")

    async def restart_stalled(self) -> int:
        """卡住了的从头来过，返回几个；手里没有了结的，别人会认领。

        :raises UnavailableError: 有的连取消也不理会：这个进程要重启
        """
        working = list(zip(self._consumers, self._loops, strict=False))
        stuck = [loop for one, loop in working if one.silent_for_s > self._stuck_after_s]
        restarted = await asyncio.gather(*(loop.restart(RESTART_WITHIN_S) for loop in stuck))
        logger.bind(consumers=sum(restarted), stuck=len(stuck)).warning("consumers_restarted")
        if not all(restarted):
            raise UnavailableError("some consumers do not even take a cancel", cause="stuck")
        return len(stuck)

    async def adjust(self, supervisor: Supervisor) -> None:
        """看一次积压，至多增减一个。"""
        await self._queue.look_for_live()
        backlog = await self._queue.streams.backlog()
        working = len(self._loops)
        self._calm = self._calm + 1 if backlog < self._entries_each * (working - 1) else 0
        if backlog > self._entries_each * working and working < self._most:
            self._grow(supervisor)
            logger.bind(consumers=working + 1, backlog=backlog).info("consumers_grown")
        elif self._calm >= SHRINK_AFTER and working > self._least:
            self._calm = 0
            await supervisor.remove(self._loops.pop())
            logger.bind(consumers=working - 1).info("consumers_shrunk")

    def _grow(self, supervisor: Supervisor) -> None:
        index = len(self._loops)
        if index == len(self._consumers):
            self._consumers.append(self._make(index))
        consumer = self._consumers[index]
        self._loops.append(supervisor.start(f"consumer-{consumer.name}", consumer.run))

    async def _run(self, supervisor: Supervisor) -> None:
        turns = itertools.count()

        async def step() -> None:
            await self.adjust(supervisor)
            turn = next(turns)
            if turn % RETIRE_EVERY == 0:
                await self._queue.streams.retire_idle(RETIRE_IDLE_MS)
            while turn % STRAYS_EVERY == 0 and await self._queue.bring_strays_home():
                pass

        await periodically(step, partial(asyncio.sleep, ADJUST_EVERY_S), self._not_adjusted)

    async def _move_due(self) -> None:
        async def step() -> None:
            moved = await self._queue.move_due()
            while moved:
                moved = await self._queue.move_due(live=0)

        await periodically(step, partial(asyncio.sleep, MOVE_EVERY_S), self._not_moved)
