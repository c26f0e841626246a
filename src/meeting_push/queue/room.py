"""队列还有没有余地：按最近一秒知道的，从不等 Redis（E9）。

接受只需要 SQL；Redis 挂着不答时，去问一声长度就是让每个 POST 等它的超时。所以长度由旁边的
循环去看，入队的回答顺便告诉它；太旧了就是不知道，不知道就接受：多收的在发件箱里等着。
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from ..errors import MeetingPushError, QueueFullError

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
