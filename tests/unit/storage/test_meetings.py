"""转录与会议的记录：号不洞，结束之后不收。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from meeting_push.errors import MeetingEndedError
from meeting_push.meeting_model import (
    Meeting,
    MeetingPosition,
    Participant,
    Utterance,
)
from meeting_push.storage.database import Database
from meeting_push.storage.meetings import MeetingRepository, TranscriptRepository

MEETING = "0" * 25 + "A"


@pytest.fixture(autouse=True)
async def meeting(database: Database) -> None:
    async with database.transaction() as connection:
        await MeetingRepository(database).insert(connection, Meeting(MEETING, "t", 1, 5, None, 0))


@pytest.fixture
async def other_node(database: Database, database_url: str) -> AsyncIterator[Database]:
    """另一个进程的连接池。"""
    other = Database(database_url)
    yield other
    await other.dispose()


def said(*texts: str) -> list[Utterance]:
    return [Utterance(1, "s", text, 0, 1) for text in texts]


async def end(database: Database) -> Meeting | None:
    async with database.transaction() as connection:
        return await MeetingRepository(database).end(connection, MEETING, 9)


async def test_concurrent_batches_from_two_nodes_leave_no_hole(
    database: Database, other_node: Database
) -> None:
    nodes = [TranscriptRepository(database), TranscriptRepository(other_node)]
    batches = await asyncio.gather(
        *(nodes[n % 2].append(MEETING, said(*"abc"[: n % 3 + 1]), n) for n in range(40))
    )
    taken = sorted(segment.seq for batch in batches for segment in batch)
    stored = await nodes[0].page(MEETING, 0, 1_000)
    assert taken == [s.seq for s in stored] == list(range(1, len(taken) + 1))
    for batch in batches:  # 一批之内相连，次序不变
        assert [s.seq for s in batch] == list(range(batch[0].seq, batch[0].seq + len(batch)))
        assert [s.text for s in batch] == list("abc"[: len(batch)])


async def test_a_batch_that_can_not_be_stored_takes_no_number(database: Database) -> None:
    transcripts = TranscriptRepository(database)
    with pytest.raises(Exception, match="stored"):
        await transcripts.append(MEETING, [*said("a"), Utterance(1, "s", "\ud800", 0, 1)], 1)
    assert [s.seq for s in await transcripts.append(MEETING, said("b"), 2)] == [1]


async def test_after_the_end_nothing_is_taken(database: Database) -> None:
    transcripts = TranscriptRepository(database)
    await transcripts.append(MEETING, said("a"), 1)
    ended = await end(database)
    assert (ended and ended.ended_at, ended and ended.seq) == (9, 1)
    with pytest.raises(MeetingEndedError):
        await transcripts.append(MEETING, said("b"), 2)
    positions = await MeetingRepository(database).positions([MEETING, "Z" * 26])
    assert positions == {MEETING: MeetingPosition(1, 9)}


async def test_a_meeting_ends_once(database: Database, other_node: Database) -> None:
    ends = await asyncio.gather(*(end(node) for node in (database, other_node) * 3))
    assert len([one for one in ends if one is not None]) == 1


async def test_joining_twice_keeps_the_first(database: Database) -> None:
    meetings = MeetingRepository(database)
    for name in ("first", "second"):
        async with database.transaction() as connection:
            await meetings.add_participants(connection, MEETING, [Participant(1, name)], 1)
    assert await meetings.participants(MEETING) == [Participant(1, "first")]
    await meetings.rename(MEETING, Participant(1, "third"))
    assert await meetings.participants(MEETING) == [Participant(1, "third")]
