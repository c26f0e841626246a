"""送的一方要知道的：队列还有没有余地（E9），慢的那条要不要让着此刻的。

接受只需要 SQL；Redis 挂着不答时，去问一声长度就是让每个 POST 等它的超时。所以长度由旁边的循环
去看，入队的回答顺便告诉它；太旧了就是不知道，不知道就接受：多收的在发件箱里等着。
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from ..errors import MeetingPushError, QueueFullError
from ..redis.link import Command
from ..supervision import periodically

#: 多久看一次；这么久以内的还算知道。
LOOK_EVERY_S: Final = 0.25
FRESH_S: Final = 1.0
#: 停收着，请人过这么久再来。
PAUSED_RETRY_S: Final = 5


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
        self._paused_until = float("-inf")
        #: 看见快的两条都空着：最近一次开始看是何时；在此之前放进去的都已了结。
        self.empty_at = float("-inf")

    @property
    def is_paused(self) -> bool:
        return self._clock() < self._paused_until

    def pause(self, for_s: float) -> None:
        """这么久之内什么也不收；要一直停就一直来说，没有人说了自会再收。0：再收。"""
        self._paused_until = self._clock() + for_s

    def check_open(self) -> None:
        """:raises QueueFullError: 队列快满了，停收着"""
        if self.is_paused:
            why = "nothing is accepted for now: the delivery queue is nearly full"
            raise QueueFullError(why, retry_after_s=PAUSED_RETRY_S)

    def check(self) -> None:
        """:raises QueueFullError: 知道有一条满了，或停收着"""
        self.check_open()
        since = self._clock() - FRESH_S
        for at, length in self._known.values():
            if length >= self._max_length and at >= since:
                raise QueueFullError("the delivery queue is full", retry_after_s=1)

    def learn(self, lengths: Mapping[str, int]) -> None:
        """刚知道的长度；-1 是入队时得知的“满了”。"""
        now = self._clock()
        for queue, length in lengths.items():
            self._known[queue] = (now, self._max_length if length < 0 else length)

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self._look_again, partial(asyncio.sleep, LOOK_EVERY_S))

    async def _look_again(self) -> None:
        started = self._clock()
        try:
            lengths = await self._look()
        except MeetingPushError:
            self._known.clear()  # 不知道；Redis 不在自有别人说
            return
        self.learn(lengths)
        if not any(lengths.values()):
            self.empty_at = started


#: 这么久没有见到此刻的消息，就是没有人在等。
CALM_S: Final = 1.0
#: 不经队列的（``accept/direct_delivery.py``）隔这么久告诉别的进程一次；它们隔这么久看一次。
LIVE_TELL_S: Final = 0.5
LIVE_LOOK_S: Final = 1.0


class LiveTraffic:
    """一个进程里的消费者共用：做慢的那条的自己很少取到此刻的消息，别的取到了。"""

    def __init__(self, told: Command) -> None:
        """:param told: 告诉别的进程的那条命令"""
        self._told = [told]
        self._seen_at = time.monotonic()
        self._told_at = float("-inf")

    def note(self, ahead_s: float = 0.0) -> None:
        """取到了此刻的消息；``ahead_s``：此后这么久也算。"""
        self._seen_at = max(self._seen_at, time.monotonic() + ahead_s)

    def telling(self) -> list[Command]:
        """此刻不经队列投递着：做慢的那条的要知道有人在等。

        返回的与投递一起写出，告诉别的进程；刚说过（``LIVE_TELL_S``）则空着。
        """
        now = time.monotonic()
        self._seen_at = max(self._seen_at, now)
        if now - self._told_at < LIVE_TELL_S:
            return []
        self._told_at = now
        return self._told

    @property
    def calm(self) -> bool:
        return time.monotonic() - self._seen_at > CALM_S
