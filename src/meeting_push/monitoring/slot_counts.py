"""按时间一格一格数的：用户活跃度（谁来过，发了多少、收到多少）与日志的事件；攒着，隔几秒一批写进
Redis（``redis/time_slots.py``），不在谁的路上。

来过：连着，或确认了什么。一直连着的人每进一格只写一次（见 ``redis/time_slots.py``）。
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..clock import Clock, now_ms
from ..errors import MeetingPushError
from ..logs import EVENTS, RepeatedWarning, Said, counts, logger, untold
from ..redis.time_slots import (
    LOG_GRAINS,
    MINUTE_MS,
    REACH_MS,
    USER_GRAINS,
    ActivityStore,
    Grain,
    HourTraffic,
    LogCountStore,
)
from ..supervision import periodically
from .metrics import Sample

EVERY_S: Final = 10.0
#: ``GET /stats`` 里最近几个小时。
HOURS: Final = 24


class Activity:
    """``came``：上次取走之后来过的（取走即清）；``online``：此刻连着的。``sent``、``received``
    从进程启动起只增。``run`` 须由监督者一直运行。"""

    def __init__(
        self,
        store: ActivityStore,
        *,
        came: Callable[[], set[int]],
        online: Callable[[], Iterable[int]],
        sent: Callable[[], int],
        received: Callable[[], int],
        clock: Clock = now_ms,
    ) -> None:
        self._store = store
        self._came = came
        self._online = online
        self._sent = sent
        self._received = received
        self._clock = clock
        self._unsaid: set[int] = set()
        #: 连着的人已写进哪一格。
        self._slots: dict[Grain, int] = {}
        self._told = (0, 0)
        self._deferred = RepeatedWarning("activity_deferred")

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.step, partial(asyncio.sleep, EVERY_S), self._deferred)

    async def step(self) -> None:
        """写一批。

        :raises RedisUnavailableError: 没有写的下次再写
        """
        now = self._clock()
        self._unsaid |= self._came()
        if self._unsaid:
            await self._store.note_users(sorted(self._unsaid), USER_GRAINS, now)
            self._unsaid.clear()
        entered = [each for each in USER_GRAINS if self._slots.get(each) != now // each.width_ms]
        if entered:
            await self._store.note_users(list(self._online()), entered, now)
            self._slots.update({each: now // each.width_ms for each in entered})
        sent, received = self._sent(), self._received()
        if (sent, received) != self._told:
            before = self._told
            await self._store.note_traffic(sent - before[0], received - before[1], now)
            self._told = sent, received

    async def read(self) -> tuple[dict[str, int], list[HourTraffic]]:
        """此刻的：各窗口来过的人数，最近各小时。"""
        return await self.active(), await self._store.traffic(HOURS, self._clock())

    async def active(self) -> dict[str, int]:
        """各窗口里来过的人数。"""
        return await self._store.active(self._clock())


# ── 日志的事件：这个进程的给 /metrics，全体的按时间给 GET /logs/events ─────────────────
#
# 说的时候只加一个整数（logs.counts）。Redis 不在时攒着，记得是哪一分钟的：那时说的正是要看的。

LOGS_EVERY_S: Final = 5.0
#: Redis 不在时攒着最近这么多分钟的。
MOST_MINUTES: Final = 120


#: 词表里的（事件，级别）。
_KINDS: Final = [
    (name, level)
    for name, levels in EVENTS.items()
    for level in levels.split("/")
    if level != "DEBUG"
]


@dataclass(frozen=True, slots=True)
class EventCount:
    """``by_time`` 一格一个，早的在前。"""

    event: str
    level: str
    code: str | None
    count: int
    by_time: list[int]


@dataclass(frozen=True, slots=True)
class LogHistory:
    """``since`` 是第一格开始的毫秒。"""

    items: list[EventCount]
    step_s: int
    since: int


class LogCounts:
    """``run`` 须由监督者一直运行。"""

    def __init__(self, store: LogCountStore, clock: Clock = now_ms) -> None:
        self._store = store
        self._clock = clock
        #: 第几分钟 → 还没有写进 Redis 的。
        self._pending: dict[int, Counter[Said]] = {}
        self._deferred = RepeatedWarning("log_counts_deferred")

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.step, partial(asyncio.sleep, LOGS_EVERY_S), self._deferred)

    async def step(self) -> None:
        """:raises RedisUnavailableError: 没有写的下次再写"""
        if fresh := untold():
            minute = self._clock() // MINUTE_MS
            self._pending.setdefault(minute, Counter()).update(fresh)
            while len(self._pending) > MOST_MINUTES:
                del self._pending[min(self._pending)]
        for minute in sorted(self._pending):
            await self._store.note(self._pending[minute], minute * MINUTE_MS)
            del self._pending[minute]

    async def finish(self) -> None:
        """关机时：最后一批。"""
        try:
            await self.step()
        except MeetingPushError as error:
            logger.bind(code=error.code, cause=error.cause).debug("log_counts_left")

    async def read(self, window_s: int, level: str | None = None) -> LogHistory:
        """最近 ``window_s`` 秒的，多的在前；``level`` 只要这一级的。"""
        grain = next(
            g for g, reach in zip(LOG_GRAINS, REACH_MS, strict=True) if window_s * 1_000 <= reach
        )
        slots = -(-window_s * 1_000 // grain.width_ms)
        first = self._clock() // grain.width_ms - slots + 1
        by_slot = await self._store.read(grain, first, slots)
        kinds = {said for one in by_slot for said in one if level in (None, said.level)}
        items = [
            EventCount(
                event=said.event,
                level=said.level,
                code=said.code or None,
                count=sum(one[said] for one in by_slot),
                by_time=[one[said] for one in by_slot],
            )
            for said in sorted(kinds)
        ]
        items.sort(key=lambda item: -item.count)
        return LogHistory(items, grain.width_ms // 1_000, first * grain.width_ms)


def log_samples() -> Iterator[Sample]:
    """这个进程的；没有说过的也有 0（C12：否则第一次不是增加）。不数调试的。"""
    totals = Counter(dict.fromkeys(_KINDS, 0))
    for said, count in counts.items():
        totals[said.event, said.level] += count
    text = "log events said, also those not written to the log"
    for (event, level), count in totals.items():
        yield Sample("log_events", "counter", text, count, {"event": event, "level": level})
