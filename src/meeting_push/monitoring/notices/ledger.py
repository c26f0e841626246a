"""说过什么的账：先说，后记。SQL 不在时攒着，回来了补上；换了进程来说，先从这里知道说过什么。"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ...clock import Clock
from ...errors import MeetingPushError
from ...logs import RepeatedWarning
from ...storage.alerts import AlertRow, Standing, ToldRow
from ...supervision import periodically, woken
from .schedule import Waiting

#: 没有记下的多于它，丢最早的：记录不如通知要紧。
MOST_UNSAVED: Final = 20_000
_PURGE_EVERY_S: Final = 3_600.0
_LOAD_AGAIN_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """一份通知在一个渠道上的下场。"""

    channel: str
    told: bool
    reason: str = ""


class NoticeRecords(Protocol):
    """要问、要记的：说过什么，谁认领了、静了音。由 ``storage.alerts.NoticeRepository`` 实现。

    都可能抛 ``DatabaseUnavailableError``：那时当作没有人认领，照样说；记录随后补上。
    """

    async def note(self, rows: Sequence[ToldRow]) -> None:
        """写下；写两遍无害。抛出了的可能写了一部分。"""
        ...

    async def told(self, now_ms: int) -> list[ToldRow]:
        """还没有恢复的与最近恢复的告警，在哪些渠道上说到了。"""
        ...

    async def unsaid(self, now_ms: int) -> list[AlertRow]:
        """最近恢复了的告警，有渠道只听到过触发。"""
        ...

    async def standings(self, alert_ids: Sequence[str]) -> Mapping[str, Standing]:
        """此刻有没有人管；不认识的不在回答里。"""
        ...

    async def purge(self, now_ms: int) -> int:
        """忘掉很久以前的；返回几行。"""
        ...


class Ledger:
    """``on_load``：读到了说过什么，与该补说的恢复。``ask_s``：问 SQL 至多等这么久。"""

    def __init__(
        self,
        records: NoticeRecords | None,
        clock: Clock,
        monotonic: Callable[[], float],
        on_load: Callable[[Sequence[ToldRow], Sequence[AlertRow]], None],
        ask_s: float,
    ) -> None:
        self._records = records
        self._clock = clock
        self._monotonic = monotonic
        self._load_again_at = 0.0
        self._on_load = on_load
        self._ask_s = ask_s
        self._unsaved: dict[tuple[object, ...], ToldRow] = {}
        self._wake = asyncio.Event()
        self._purge_due = False
        #: 知道从前说过什么；没有记录的也算。
        self.is_loaded = records is None
        self._unanswered = RepeatedWarning("notice_records_unread")

    def note(self, batch: Iterable[Waiting], outcome: Outcome) -> None:
        """记下，随后写。"""
        if self._records is None:
            return
        for waiting in batch:
            alert = waiting.alert
            row = ToldRow(
                alert.alert_id,
                outcome.channel,
                alert.state.value,
                waiting.is_escalation,
                outcome.told,
                outcome.reason,
                self._clock(),
            )
            self._unsaved.pop(row[:4], None)
            self._unsaved[row[:4]] = row
        while len(self._unsaved) > MOST_UNSAVED:
            del self._unsaved[next(iter(self._unsaved))]
        self._wake.set()

    async def load_once(self) -> None:
        """读从前说过什么；读不到就算了，过一阵再读。可以取消。"""
        now = self._monotonic()
        if self._records is None or self.is_loaded or now < self._load_again_at:
            return
        self._load_again_at = now + _LOAD_AGAIN_S
        try:
            async with asyncio.timeout(self._ask_s):
                told = await self._records.told(self._clock())
                unsaid = await self._records.unsaid(self._clock())
        except (MeetingPushError, TimeoutError) as error:
            self._unanswered.say(error=type(error).__name__)
        else:
            self.is_loaded = True
            self._on_load(told, unsaid)

    def unload(self) -> None:
        """不再由这个进程说：下次轮到再读。"""
        self.is_loaded = self._records is None
        self._load_again_at = 0.0

    async def standings(self, alert_ids: Sequence[str]) -> Mapping[str, Standing]:
        """谁认领了、静了音；问不到就当作没有。"""
        if self._records is None:
            return {}
        try:
            async with asyncio.timeout(self._ask_s):
                return await self._records.standings(alert_ids)
        except (MeetingPushError, TimeoutError) as error:
            self._unanswered.say(error=type(error).__name__)
            return {}

    async def keep(self) -> None:
        """一个循环：把没有记下的写下。"""
        await periodically(self._step, self._pause)

    async def _step(self) -> None:
        self._wake.clear()
        if self._records is None:
            return
        while self._unsaved:
            rows = list(self._unsaved.values())
            await self._records.note(rows)
            for row in rows:
                if self._unsaved.get(row[:4]) is row:
                    del self._unsaved[row[:4]]
        if self._purge_due:
            await self._records.purge(self._clock())

    async def _pause(self) -> None:
        await woken(self._wake, _PURGE_EVERY_S)
        self._purge_due = not self._wake.is_set()
