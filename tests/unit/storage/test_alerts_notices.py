"""告警通知过谁：写两遍无害，失败之后成了是改；接手的人读得到该知道的。"""

from __future__ import annotations

import pytest

from meeting_push.storage.alerts import (
    KEEP_MS,
    RECENT_MS,
    AlertRepository,
    AlertRow,
    NoticeRepository,
    Standing,
    ToldRow,
)
from meeting_push.storage.database import Database

NOW = 1_764_500_000_000


def row(alert_id: str = "a", state: str = "firing", **given: object) -> ToldRow:
    fields = {"channel": "mail", "is_escalation": False, "told": True, "reason": "", "at": NOW}
    return ToldRow(alert_id=alert_id, state=state, **{**fields, **given})  # type: ignore[arg-type]


@pytest.fixture
def notices(database: Database) -> NoticeRepository:
    return NoticeRepository(database)


async def test_writing_twice_keeps_the_last(notices: NoticeRepository) -> None:
    await notices.note([row(told=False, reason="HTTP 500"), row(told=False, reason="HTTP 502")])
    await notices.note([row(at=NOW + 1)])
    assert await notices.of("a") == [row(at=NOW + 1)]


async def test_who_takes_over_reads_what_was_told(notices: NoticeRepository) -> None:
    rows = [row("a"), row("b", told=False), row("c", at=NOW - RECENT_MS - 1)]
    over = [row("old"), row("old", "resolved", at=NOW - RECENT_MS - 1)]
    recent = [row("new"), row("new", "resolved", at=NOW - 1)]
    await notices.note([*rows, *over, *recent])
    assert {(one.alert_id, one.state) for one in await notices.told(NOW)} == {
        ("a", "firing"),
        ("c", "firing"),
        ("new", "firing"),
        ("new", "resolved"),
    }


async def test_many_are_written_in_batches(notices: NoticeRepository) -> None:
    await notices.note([row(f"a{n}") for n in range(1_200)])
    assert len(await notices.told(NOW)) == 1_200


async def test_a_time_line_is_in_order(notices: NoticeRepository) -> None:
    await notices.note(
        [row(state="resolved", at=NOW + 5), row(), row(is_escalation=True, at=NOW + 2)]
    )
    assert [one.at for one in await notices.of("a")] == [NOW, NOW + 2, NOW + 5]


def alert_row(alert_id: str, resolved_at: int | None = None) -> AlertRow:
    return AlertRow(
        alert_id=alert_id,
        rule="redis_slow",
        labels="{}",
        severity="warning",
        summary_zh="慢",
        summary_en="slow",
        value=1,
        threshold=0,
        runbook="",
        started_at=NOW - 1_000,
        resolved_at=resolved_at,
        spot_key=alert_id,
    )


async def test_a_recovery_nobody_told_is_found(
    database: Database, notices: NoticeRepository
) -> None:
    alerts = AlertRepository(database)
    await alerts.fire([alert_row(name, NOW) for name in ("told", "unsaid", "unheard")])
    await alerts.fire([alert_row("firing"), alert_row("long-ago", NOW - RECENT_MS - 1)])
    await notices.note([row(name) for name in ("told", "unsaid", "firing", "long-ago")])
    await notices.note([row("told", "resolved"), row("unsaid", "resolved", channel="hook")])
    await notices.note([row("unsaid", "resolved", told=False), row("unheard", told=False)])
    assert [one.alert_id for one in await notices.unsaid(NOW)] == ["unsaid"]


async def test_who_looks_after_an_alert_is_known(
    database: Database, notices: NoticeRepository
) -> None:
    alerts = AlertRepository(database)
    await alerts.fire([alert_row(name) for name in ("a", "b", "c")])
    await alerts.acknowledge("a", "me", NOW)
    await alerts.silence("b", NOW + 1)
    assert await notices.standings(["a", "b", "c", "unknown"]) == {
        "a": Standing(NOW, None),
        "b": Standing(None, NOW + 1),
        "c": Standing(),
    }


async def test_what_is_old_is_forgotten(notices: NoticeRepository) -> None:
    await notices.note([row("old", at=NOW - KEEP_MS - 1), row("new")])
    assert await notices.purge(NOW) == 1
    assert await notices.of("old") == []
