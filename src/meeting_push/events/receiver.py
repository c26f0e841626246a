"""一个接收者：此刻行不行，送了多少；清点它的队列。

等着几个，太多的、太久的成为死信，太老的死信忘掉；一步的量都有上限。
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Final

from ..clock import Clock, now_ms
from ..logs import RepeatedWarning, logger
from ..storage.event_queue import EventQueueRepository
from ..supervision import periodically

#: 连着这么多份没有送成，就是接收者不行；那时隔多久试一份（秒）。
BROKEN_AFTER: Final = 5
FIRST_REST_S: Final = 1.0
MOST_REST_S: Final = 60.0


def jitter() -> float:
    return random.uniform(0.75, 1.25)  # noqa: S311 — 抖动不需要密码学随机


@dataclass(slots=True)
class SenderFigures:
    """只增的，与此刻的；此刻的只有轮到的那个进程知道，别的是 0。"""

    sent: int = 0
    failed: int = 0
    dead: int = 0
    forgotten: int = 0
    waiting: int = 0
    oldest_age_s: float = 0
    dead_waiting: int = 0
    leads: bool = False
    parked: bool = False
    broken: bool = False


@dataclass(slots=True)
class Rest:
    """接收者此刻行不行。``until`` 是单调的秒。"""

    in_a_row: int = 0
    until: float = 0

    @property
    def broken(self) -> bool:
        return self.in_a_row >= BROKEN_AFTER

    def failed(self, now: float, wanted_s: float) -> None:
        self.in_a_row += 1
        pause = wanted_s
        if self.broken:
            step = min(self.in_a_row - BROKEN_AFTER, 10)
            pause = max(pause, min(FIRST_REST_S * 2**step, MOST_REST_S) * jitter())
        self.until = max(self.until, now + pause)

    def succeeded(self) -> bool:
        """True：刚好起来。"""
        was_broken = self.broken
        self.in_a_row, self.until = 0, 0
        return was_broken


#: 多久清点一次。
TALLY_S: Final = 15.0
_STEP: Final = 500
#: 死信至多留这么多份、这么久。
DEAD_KEPT: Final = 10_000
DEAD_KEPT_MS: Final = 30 * 24 * 3_600_000


class QueueKeeper:
    """``most_waiting``：至多等着这么多事件；``give_up_ms``：等这么久就不再等。"""

    def __init__(
        self,
        receiver: str,
        name: str,
        queue: EventQueueRepository,
        figures: SenderFigures,
        *,
        most_waiting: int,
        give_up_ms: int,
    ) -> None:
        self._receiver, self._name = receiver, name
        self._queue = queue
        self._figures = figures
        self._most_waiting = most_waiting
        self._give_up_ms = give_up_ms

    async def tally(self, now: int) -> list[int]:
        """返回刚成为死信的各份。"""
        figures = self._figures
        waiting = await self._queue.waiting(self._receiver)
        buried: list[int] = []
        if figures.broken or figures.parked:
            old = now - self._give_up_ms
            buried += await self._bury_oldest(now, old, None, "gave up waiting")
        if (over := waiting.events - self._most_waiting) > 0:
            buried += await self._bury_oldest(now, None, over, "too many were waiting")
        figures.forgotten += await self._queue.forget_dead(
            self._receiver, now - DEAD_KEPT_MS, DEAD_KEPT, _STEP
        )
        figures.waiting, figures.dead_waiting = waiting.events, waiting.dead
        figures.oldest_age_s = 0 if waiting.oldest is None else (now - waiting.oldest) / 1000
        return buried

    async def _bury_oldest(
        self, now: int, before: int | None, most: int | None, why: str
    ) -> list[int]:
        """至多 ``_STEP`` 份；余下的下一次清点再说。"""
        found, events = list[int](), 0
        for unit_id, count in await self._queue.oldest(self._receiver, before, _STEP):
            if most is not None and events >= most:
                break
            found.append(unit_id)
            events += count
        if found:
            await self._queue.bury(found, why, now)
            self._figures.dead += events
            logger.bind(receiver=self._name, events=events, reason=why).error("events_given_up")
        return found


#: 多久看一次有没有无人送的。
STRAYS_S: Final = 600.0


class StrayKeeper:
    """没有谁送的接收者的队列：URL 从文件里去掉了，登记处理器的应用没有了。

    它回来，等着的照送；``give_up_ms`` 没有谁送，等着的照样到时成为死信，死信照样忘掉。
    """

    def __init__(
        self,
        queue: EventQueueRepository,
        *,
        most_waiting: int,
        give_up_ms: int,
        clock: Clock = now_ms,
    ) -> None:
        self._queue = queue
        self._most_waiting, self._give_up_ms = most_waiting, give_up_ms
        self._clock = clock
        self._deferred = RepeatedWarning("event_strays_deferred")

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.sweep, lambda: asyncio.sleep(STRAYS_S), self._deferred)

    async def sweep(self) -> None:
        now = self._clock()
        for receiver in await self._queue.unclaimed(now - self._give_up_ms):
            keeper = QueueKeeper(
                receiver,
                receiver,
                self._queue,
                SenderFigures(parked=True),
                most_waiting=self._most_waiting,
                give_up_ms=self._give_up_ms,
            )
            await keeper.tally(now)
