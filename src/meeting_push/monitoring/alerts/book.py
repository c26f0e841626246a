"""在触发的告警的账：内存里的是真的，SQL 照着它写；SQL 不在就先告诉人，回来了再补记。

告警也是出门的事件：触发、恢复先写进出门的队列，再告诉通知那一边（``EventSink``）。
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from ulid import ULID

from ...clock import Clock, now_ms
from ...errors import MeetingPushError
from ...logs import RepeatedWarning
from ...storage.alerts import AlertRepository, AlertStateRepository, Told
from ...storage.database import Database
from ...storage.event_outbox import ALERT_FIRING, ALERT_RESOLVED, Item
from .evaluation import Before, Outcome
from .model import (
    Alert,
    AlertSink,
    AlertState,
    Spot,
    alert_from,
    key_of,
    pending_row,
    row_of,
    spot_of,
    waiting,
)
from .rule import Rule

#: 一轮里等 SQL 至多这么久：挂住的也当它不在，告诉人不等它。
STORE_S: Final = 3.0
#: Alertmanager 交来的带着这个标签；触发与恢复由它说。
SOURCE: Final = "source"
ALERTMANAGER: Final = "alertmanager"


@dataclass(slots=True)
class _Entry:
    """``told``：告诉了什么；``stored``、``stored_told``、``stored_end``：SQL 里已是这样。"""

    alert: Alert
    told: Told = Told.NOTHING
    stored: bool = False
    stored_told: Told = Told.NOTHING
    stored_end: bool = False
    silenced_until: int = 0

    @property
    def wanted(self) -> Told:
        return Told.FIRING if self.alert.state is AlertState.FIRING else Told.RESOLVED

    @property
    def is_over(self) -> bool:
        """SQL 里都写好了，不必再留着。"""
        return self.stored_end and self.stored_told is Told.RESOLVED


class AlertBook:
    """轮到我评估时用；``forget`` 之后从 SQL 重新来过。"""

    def __init__(self, records: AlertRepository, state: AlertStateRepository) -> None:
        self._records = records
        self._state = state
        self._deferred = RepeatedWarning("alert_record_deferred")
        self.forget()

    def forget(self) -> None:
        """轮到别人了：他从 SQL 接着做。"""
        self._is_away = False
        self._entries: dict[str, _Entry] = {}
        self._pending: dict[Spot, int] = {}
        #: SQL 里的；None = 还没有读过。
        self._kept: dict[Spot, int] | None = None

    @property
    def firing(self) -> list[Alert]:
        entries = self._entries.values()
        return [one.alert for one in entries if one.alert.state is AlertState.FIRING]

    def before(self) -> Before:
        ours = (one for one in self.firing if one.labels.get(SOURCE) != ALERTMANAGER)
        return Before(self._pending, [spot_of(one.rule, one.labels) for one in ours])

    async def refresh(self) -> None:
        """SQL 里的并进来：别人记下的、静音了的；第一次还有等着的。SQL 不在则无事。"""
        self._is_away = False
        await self._reach(self._store)
        await self._reach(self._read)

    async def _read(self) -> None:
        for row in await self._records.open():
            self._merge(alert_from(row), Told(row.told), row.silenced_until or 0)
        if self._kept is None:
            self._kept = dict(map(waiting, await self._state.pending()))
            self._pending = {**self._kept, **self._pending}

    def _merge(self, alert: Alert, told: Told, silenced_until: int) -> None:
        mine = self._entries.get(alert.alert_id)
        if mine is None:
            ended = alert.state is AlertState.RESOLVED
            mine = _Entry(alert, told, stored=True, stored_told=told, stored_end=ended)
            self._entries[alert.alert_id] = mine
        elif alert.state is AlertState.RESOLVED:  # Alertmanager 那边说恢复了
            mine.alert, mine.stored_end = alert, True
        mine.silenced_until = silenced_until

    def apply(self, rules: Mapping[str, Rule], outcome: Outcome, now: int) -> None:
        """一次评估的结果，先记在内存里。"""
        self._pending = outcome.pending
        for spot, value in outcome.fired.items():
            alert = _alert_of(rules[spot.rule_id], spot, value, now)
            self._entries[alert.alert_id] = _Entry(alert)
        ended = set(outcome.resolved)
        for entry in self._entries.values():
            alert = entry.alert
            if alert.state is AlertState.FIRING and spot_of(alert.rule, alert.labels) in ended:
                entry.alert = _resolved(alert, now)
                if entry.told is Told.NOTHING:  # 没有人知道它触发过
                    entry.told = Told.RESOLVED

    async def settle(self, sink: AlertSink, now: int) -> None:
        """先记下，再告诉，再记下告诉过了：死在中间，接手的再告诉一遍。

        :raises MeetingPushError: ``sink`` 现在收不下；下一轮再来
        """
        await self._reach(self._store)
        await self._tell(sink, now)
        await self._reach(self._store)

    async def _tell(self, sink: AlertSink, now: int) -> None:
        untold = [one for one in self._entries.values() if one.told < one.wanted]
        quiet = [one for one in untold if one.silenced_until > now]
        for entry in quiet:
            if entry.wanted is Told.RESOLVED:
                entry.told = Told.RESOLVED
        loud = [one for one in untold if one not in quiet]
        if loud:
            await sink.told([one.alert for one in loud])
        for entry in loud:
            entry.told = entry.wanted

    # ── SQL ─────────────────────────────────────────────────────────────────

    async def _reach(self, work: Callable[[], Awaitable[None]]) -> None:
        """这一轮里它没有回答过一次，就不再问。"""
        if self._is_away:
            return
        try:
            async with asyncio.timeout(STORE_S):
                await work()
        except TimeoutError:
            self._is_away = True
            self._deferred.say(code="database_unavailable", cause="timeout")
        except MeetingPushError as error:
            if not error.temporary:
                raise
            self._is_away = True
            self._deferred.say(code=error.code, cause=error.cause)

    async def _store(self) -> None:
        """让 SQL 与内存一样；做了一半也无妨，每一步重来无害。"""
        await self._store_new([one for one in self._entries.values() if not one.stored])
        await self._store_ends()
        await self._store_told()
        await self._store_pending()
        self._entries = {i: one for i, one in self._entries.items() if not one.is_over}

    async def _store_new(self, entries: Sequence[_Entry]) -> None:
        if not entries:
            return
        await self._records.fire([row_of(one.alert) for one in entries])
        known = await self._records.standings([one.alert.alert_id for one in entries])
        for entry in entries:
            row = known.get(entry.alert.alert_id)
            if row is None:  # 同一处别人已记下一条：以它为准，随后由 ``refresh`` 读到
                del self._entries[entry.alert.alert_id]
                continue
            entry.stored = True
            entry.stored_end = row.resolved_at is not None
            entry.silenced_until = row.silenced_until or 0

    async def _store_ends(self) -> None:
        ended = [one for one in self._entries.values() if _is_ended(one) and not one.stored_end]
        by_time: dict[int, list[_Entry]] = {}
        for entry in ended:
            by_time.setdefault(entry.alert.resolved_at or 0, []).append(entry)
        for at, entries in by_time.items():
            await self._records.resolve([_key(one.alert) for one in entries], at)
            for entry in entries:
                entry.stored_end = True

    async def _store_told(self) -> None:
        for told in (Told.FIRING, Told.RESOLVED):
            changed = [
                one
                for one in self._entries.values()
                if one.stored and one.told is told and one.stored_told < told
            ]
            if changed:
                await self._records.mark_told([one.alert.alert_id for one in changed], told)
            for entry in changed:
                entry.stored_told = told

    async def _store_pending(self) -> None:
        if self._kept is None or self._kept == self._pending:
            return
        begun = [s for s, since in self._pending.items() if self._kept.get(s) != since]
        ended = self._kept.keys() - self._pending.keys()
        rows = [pending_row(spot, self._pending[spot]) for spot in begun]
        await self._state.keep(rows, [key_of(spot) for spot in ended])
        self._kept = dict(self._pending)


def _alert_of(rule: Rule, spot: Spot, value: float, now: int) -> Alert:
    """刚触发的一条。"""
    labels = dict(spot.labels)
    return Alert(
        alert_id=str(ULID()),
        rule=rule.rule_id,
        severity=rule.severity,
        state=AlertState.FIRING,
        summary=rule.say(value, labels),
        labels=labels,
        value=value,
        threshold=rule.threshold,
        started_at=now,
        runbook=rule.page,
    )


def _resolved(alert: Alert, now: int) -> Alert:
    return msgspec.structs.replace(
        alert, state=AlertState.RESOLVED, resolved_at=max(now, alert.started_at)
    )


def _is_ended(entry: _Entry) -> bool:
    return entry.stored and entry.alert.state is AlertState.RESOLVED


def _key(alert: Alert) -> str:
    return key_of(spot_of(alert.rule, alert.labels))


#: SQL 不在时攒着这么多，再多就丢最早的：通知照发。
MOST_KEPT = 1_000


class EventSink:
    """实现 ``AlertSink``。"""

    def __init__(self, database: Database, sink: AlertSink, clock: Clock = now_ms) -> None:
        self._database = database
        self._sink = sink
        self._clock = clock
        self._kept: list[Alert] = []
        self._deferred = RepeatedWarning("alert_event_deferred")

    async def told(self, alerts: Sequence[Alert]) -> None:
        await self._write(alerts)
        await self._sink.told(alerts)

    async def test(self, channel: str) -> None:
        await self._sink.test(channel)

    async def _write(self, alerts: Sequence[Alert]) -> None:
        events = self._database.events
        if not {ALERT_FIRING, ALERT_RESOLVED} & events.wanted.keys():
            return
        told, now = [*self._kept, *alerts], self._clock()
        try:
            async with self._database.transaction() as connection:
                for alert in told:
                    await events.add(connection, _kind(alert), [_item(alert)], now)
        except MeetingPushError as error:
            self._kept = told[-MOST_KEPT:]
            self._deferred.say(code=error.code, cause=error.cause)
            return
        self._kept = []
        events.wake()


def _kind(alert: Alert) -> str:
    return ALERT_FIRING if alert.state is AlertState.FIRING else ALERT_RESOLVED


def _item(alert: Alert) -> Item:
    """见 ``event_outbox.FIELDS``。"""
    return (
        *(alert.alert_id, alert.rule, alert.severity.value, alert.summary._asdict()),
        *(alert.labels, alert.value, alert.threshold),
        *(alert.started_at, alert.resolved_at, alert.runbook),
    )
