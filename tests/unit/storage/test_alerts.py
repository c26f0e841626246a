"""告警的记录：一处至多一条在触发，静音跟着走，一页一页。"""

from __future__ import annotations

import asyncio

from ulid import ULID

from meeting_push.storage.alerts import (
    KEEP_MS,
    AlertRepository,
    AlertRow,
    AlertStateRepository,
    EventRow,
    NoteRow,
    NoticeRepository,
    PendingRow,
    Told,
)
from meeting_push.storage.database import Database

NOW = 1_800_000_000_000


def row(spot: str = "redis", started_at: int = NOW, resolved_at: int | None = None) -> AlertRow:
    return AlertRow(
        alert_id=str(ULID()),
        rule="redis_unavailable",
        labels="{}",
        severity="critical",
        summary_zh="连不上",
        summary_en="away",
        value=0,
        threshold=1,
        runbook="runbook/redis_unavailable.md",
        started_at=started_at,
        spot_key=spot,
        resolved_at=resolved_at,
    )


async def test_a_record_is_read_back_as_it_was_written(database: Database) -> None:
    alerts, one = AlertRepository(database), row()
    assert await alerts.fire([one]) == [True]
    assert await alerts.get(one.alert_id) == one
    assert await alerts.get(str(ULID())) is None


async def test_of_evaluators_at_once_one_fires(database: Database) -> None:
    alerts = AlertRepository(database)
    asked = await asyncio.gather(*(alerts.fire([row()]) for _ in range(6)))
    assert sum(written for (written,) in asked) == 1
    assert len(await alerts.open()) == 1


async def test_writing_the_same_record_again_does_nothing(database: Database) -> None:
    alerts, one = AlertRepository(database), row()
    await alerts.fire([one])
    await alerts.resolve(["redis"], NOW + 1)
    assert await alerts.fire([one]) == [False]


async def test_many_are_recorded_at_once_as_one_by_one(database: Database) -> None:
    alerts, first, silenced = AlertRepository(database), row("known"), row("silenced")
    await alerts.record([first, silenced, row("known"), *(row(f"s{n}") for n in range(1_000))])
    await alerts.silence(silenced.alert_id, NOW + 60_000)
    await alerts.resolve(["silenced"], NOW + 1)
    await alerts.record([row("known"), again := row("silenced")])
    await alerts.record([])
    found = {one.alert_id: one.silenced_until for one in await alerts.open()}
    assert len(found) == 1_002
    assert (found[first.alert_id], found[again.alert_id]) == (None, NOW + 60_000)


async def test_after_it_is_resolved_it_may_fire_again(database: Database) -> None:
    alerts, first, second = AlertRepository(database), row(), row()
    await alerts.fire([first])
    await alerts.mark_told([first.alert_id], Told.FIRING)
    await alerts.resolve(["redis"], NOW + 1)
    assert await alerts.fire([second]) == [True]
    found = {one.alert_id: one.resolved_at for one in await alerts.open()}
    assert found == {first.alert_id: NOW + 1, second.alert_id: None}


async def test_what_was_told_twice_is_no_longer_open(database: Database) -> None:
    alerts, one = AlertRepository(database), row()
    await alerts.fire([one])
    await alerts.mark_told([one.alert_id], Told.FIRING)
    await alerts.resolve(["redis"], NOW)
    await alerts.mark_told([one.alert_id], Told.RESOLVED)
    assert await alerts.open() == []


async def test_what_ended_before_it_was_told_is_not_told(database: Database) -> None:
    alerts = AlertRepository(database)
    await alerts.fire([row()])
    await alerts.resolve(["redis"], NOW)
    assert await alerts.open() == []


async def test_a_silence_goes_over_to_the_next_one_of_its_spot(database: Database) -> None:
    alerts, first, second, third = AlertRepository(database), row(), row(), row("other")
    await alerts.fire([first])
    await alerts.silence(first.alert_id, NOW + 60_000)
    await alerts.resolve(["redis"], NOW + 1)
    await alerts.fire([second])
    await alerts.fire([third])
    late = row(started_at=NOW + 60_001)
    await alerts.resolve(["redis"], NOW + 2)
    await alerts.fire([late])
    silenced = [await alerts.get(one.alert_id) for one in (second, third, late)]
    assert [one and one.silenced_until for one in silenced] == [NOW + 60_000, None, None]


async def test_pages_are_newest_first_and_meet(database: Database) -> None:
    alerts = AlertRepository(database)
    rows = [row(f"spot{number}") for number in range(5)]
    await alerts.fire(rows)
    await alerts.resolve(["spot0", "spot1"], NOW)
    found, cursor = list[str](), None
    while True:
        page = await alerts.page("all", cursor, 2)
        found += [one.alert_id for one in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert found == [one.alert_id for one in sorted(rows, reverse=True)]
    firing = await alerts.page("firing", None, 10)
    resolved = await alerts.page("resolved", None, 10)
    assert {one.spot_key for one in firing.items} == {"spot2", "spot3", "spot4"}
    assert {one.spot_key for one in resolved.items} == {"spot0", "spot1"}


async def test_who_acknowledges_first_is_remembered(database: Database) -> None:
    alerts, one = AlertRepository(database), row()
    await alerts.fire([one])
    await alerts.acknowledge(one.alert_id, "ann", NOW)
    await alerts.acknowledge(one.alert_id, "bob", NOW + 1)
    found = await alerts.get(one.alert_id)
    assert found
    assert (found.acknowledged_by, found.acknowledged_at) == ("ann", NOW)


async def test_the_standing_of_those_asked_about_is_told(database: Database) -> None:
    alerts, one = AlertRepository(database), row()
    await alerts.fire([one])
    await alerts.silence(one.alert_id, NOW + 1)
    found = await alerts.standings([one.alert_id, str(ULID())])
    assert {i: standing.silenced_until for i, standing in found.items()} == {one.alert_id: NOW + 1}


async def test_notes_belong_to_their_alert_in_order(database: Database) -> None:
    alerts, one, other = AlertRepository(database), row(), row("other")
    notes = [NoteRow(str(ULID()), one.alert_id, "ann", NOW, f"第 {n} 条") for n in range(2)]
    for note in notes:
        await alerts.add_note(note)
    assert await alerts.notes([one.alert_id, other.alert_id]) == {one.alert_id: sorted(notes)}


async def test_what_waits_is_kept(database: Database) -> None:
    state = AlertStateRepository(database)
    a, b = PendingRow("a", "r", "{}", NOW), PendingRow("b", "r", "{}", NOW)
    await state.keep([a, b], [])
    await state.keep([a._replace(since=NOW + 1)], ["b", "c"])
    assert await state.pending() == [a._replace(since=NOW + 1)]


async def test_the_turn_is_ones_until_it_runs_out(database: Database) -> None:
    state = AlertStateRepository(database)
    assert await state.lease("ann", NOW, 1_000)
    assert not await state.lease("bob", NOW + 999, 1_000)
    assert await state.lease("ann", NOW + 999, 1_000)
    assert not await state.lease("bob", NOW + 1_500, 1_000)
    assert await state.lease("bob", NOW + 2_000, 1_000)


async def test_a_turn_of_a_clock_that_jumped_does_not_count(database: Database) -> None:
    state = AlertStateRepository(database)
    assert await state.lease("ann", NOW + 3_600_000, 1_000)
    assert await state.lease("bob", NOW, 1_000)


async def test_of_many_that_ask_at_once_one_has_the_turn(database: Database) -> None:
    state = AlertStateRepository(database)
    asked = await asyncio.gather(*(state.lease(str(who), NOW, 1_000) for who in range(5)))
    assert sum(asked) == 1


async def test_an_event_written_twice_is_one(database: Database) -> None:
    alerts, one = AlertRepository(database), row()
    await alerts.fire([one])
    done, failed = (
        EventRow(str(ULID()), one.alert_id, NOW, "action", "node-1", "resubscribe", state)
        for state in ("done", "failed")
    )
    await alerts.add_events([done])
    await alerts.add_events([done, failed])
    assert await alerts.events(one.alert_id) == [done, failed]
    assert await alerts.events(str(ULID())) == []


async def test_events_of_long_ago_are_forgotten(database: Database) -> None:
    alerts, one = AlertRepository(database), row()
    old, new = (
        EventRow(str(ULID()), one.alert_id, at, "silenced", "ann", until=at)
        for at in (NOW - KEEP_MS - 1, NOW)
    )
    await alerts.add_events([old, new])
    assert await NoticeRepository(database).purge(NOW) == 1
    assert await alerts.events(one.alert_id) == [new]
