"""告警也是出门的事件：触发、恢复写进出门的队列，再告诉通知那一边。"""

from __future__ import annotations

from collections.abc import Sequence

from ...clock import Clock, now_ms
from ...errors import MeetingPushError
from ...logs import RepeatedWarning
from ...storage.database import Database
from ...storage.event_outbox import ALERT_FIRING, ALERT_RESOLVED, Item
from .model import Alert, AlertSink, AlertState

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
