"""告警出门：写进出门的队列，再告诉通知那一边。"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from sqlalchemy import select

from meeting_push.errors import DatabaseUnavailableError
from meeting_push.monitoring.alerts.book import EventSink
from meeting_push.monitoring.alerts.model import Alert, AlertState, Severity, Text
from meeting_push.storage.database import Database
from meeting_push.storage.event_outbox import ALERT_FIRING, ALERT_RESOLVED
from meeting_push.storage.operations_tables import events_out

FIRING = Alert(
    alert_id="01HZZZZZZZZZZZZZZZZZZZZZZZ",
    rule="redis_slow",
    severity=Severity.WARNING,
    state=AlertState.FIRING,
    summary=Text("慢", "slow"),
    labels={"node": "a"},
    value=0.5,
    threshold=0.1,
    started_at=1,
    runbook="runbook/redis_slow.md",
)


class Told:
    """通知的一边。"""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []

    async def told(self, alerts: Sequence[Alert]) -> None:
        self.alerts += alerts

    async def test(self, channel: str) -> None:
        pass


async def kinds(database: Database) -> list[str]:
    rows = await database.rows(select(events_out.c.kind).order_by(events_out.c.id))
    return [row[0] for row in rows]


async def test_firing_and_resolved_are_told_to_both(database: Database) -> None:
    database.events.subscribe("r", [ALERT_FIRING, ALERT_RESOLVED], lambda: None)
    told = Told()
    sink = EventSink(database, told)
    resolved = msgspec.structs.replace(FIRING, state=AlertState.RESOLVED, resolved_at=2)
    await sink.told([FIRING])
    await sink.told([resolved])
    assert await kinds(database) == [ALERT_FIRING, ALERT_RESOLVED]
    assert told.alerts == [FIRING, resolved]


async def test_without_sql_the_notices_go_and_the_events_follow(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.events.subscribe("r", [ALERT_FIRING], lambda: None)
    told = Told()
    sink = EventSink(database, told)

    @contextlib.asynccontextmanager
    async def refuse() -> AsyncIterator[None]:
        raise DatabaseUnavailableError("away")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(database, "transaction", refuse)
        await sink.told([FIRING])
    assert told.alerts == [FIRING]
    await sink.told([])
    assert await kinds(database) == [ALERT_FIRING]


async def test_nobody_wants_them_nothing_is_written(database: Database) -> None:
    await EventSink(database, Told()).told([FIRING])
    assert await kinds(database) == []
