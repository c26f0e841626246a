"""告警通知过谁：写两遍无害，失败之后成了是改；接手的人读得到该知道的。"""

from __future__ import annotations

import pytest

from meeting_push.storage.database import Database
from meeting_push.storage.notices import KEEP_MS, RECENT_MS, NoticeRepository, ToldRow

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


async def test_what_is_old_is_forgotten(notices: NoticeRepository) -> None:
    await notices.note([row("old", at=NOW - KEEP_MS - 1), row("new")])
    assert await notices.purge(NOW) == 1
    assert await notices.of("old") == []
