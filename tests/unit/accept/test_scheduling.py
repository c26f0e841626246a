"""预约：到时才送、到时之前可以撤回；以及在调用者自己的事务里发送。"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from meeting_push.app import MeetingPush
from meeting_push.clock import now_ms
from meeting_push.errors import InvalidInputError, NotFoundError
from meeting_push.model import USER_ROLE, Draft, Principal, QueueEntry, Sender
from meeting_push.storage.engine import async_url
from tests.support.eventually import eventually
from tests.support.node import node
from tests.support.redis_server import RedisServer

ALICE, BOB = Sender(1, "alice"), 2
HOUR_MS = 3_600_000


@pytest.fixture
async def push(
    redis_server: RedisServer, database_url: str, tmp_path: Path, key_prefix: str
) -> AsyncIterator[MeetingPush]:
    async with node(redis_server.url, database_url, tmp_path, key_prefix=key_prefix) as one:
        yield one


def entry(message_id: str, due: int) -> QueueEntry:
    return QueueEntry(
        message_id=message_id, recipient_ids=(BOB,), priority=0, expires_at=due + HOUR_MS
    )


async def arrives(push: MeetingPush, message_id: str) -> None:
    async def there() -> bool:
        held = await push.mailbox.get_offline_messages(BOB)
        return message_id in {one.tail.message_id for one in held}

    await eventually(there)


async def test_a_cancelled_message_leaves_the_delayed_queue(push: MeetingPush) -> None:
    accepted = await push.messages.send_message(ALICE, BOB, "t", "c", deliver_at=now_ms() + HOUR_MS)

    async def delayed() -> int:
        return int(
            await push._rooms.bus.redis.lean.execute(
                "ZCARD", push._rooms.bus.redis.keys.delayed_queue
            )
        )

    await eventually(delayed)
    alice = Principal(1, USER_ROLE, issued_at=0, expires_at=HOUR_MS)
    await push.messages.cancel_message(accepted.message_id, alice)
    assert await delayed() == 0
    assert await push.messages.get_unread_count(BOB) == 0


async def test_a_cancelled_message_that_was_still_on_its_way_is_dropped_when_due(
    push: MeetingPush,
) -> None:
    """入队的人手里还有一份，撤回之后才放进延迟队列。"""
    late, kept = "0" * 25 + "L", "0" * 25 + "K"
    due = now_ms() + 50
    await push._rooms.messages.queue.unschedule(late, due)
    sent = await push.messages.send_message(ALICE, BOB, "t", "c", deliver_at=due)
    tails = await push.mailbox.tails([sent.message_id])
    for name in (late, kept):
        await push.mailbox.store_bodies([(name, tails[sent.message_id], 0, due + HOUR_MS)])
    await push._rooms.messages.queue.schedule([(entry(late, due), due), (entry(kept, due), due)])

    async def both_were_moved_and_settled() -> bool:
        """两项同时放入，也就同时移出：一项送达了，另一项也已在流里或已了结。"""
        held, _, _ = await push.mailbox.contains(BOB, [kept])
        return held == [kept] and await push._rooms.messages.queue.streams.backlog() == 0

    await eventually(both_were_moved_and_settled, timeout=15)
    assert await push.mailbox.contains(BOB, [late, kept]) == ([kept], [], [late])


async def test_a_scheduled_message_arrives_when_it_is_due(push: MeetingPush) -> None:
    due = now_ms() + 300
    accepted = await push.messages.send_message(ALICE, BOB, "t", "c", deliver_at=due)
    await arrives(push, accepted.message_id)
    assert now_ms() >= due


# ── 调用者的事务 ─────────────────────────────────────────────────────────────


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    one = create_async_engine(async_url(database_url))
    yield one
    await one.dispose()


DRAFT = Draft(recipient_ids=(BOB,), title="t", content="c")


async def test_a_message_in_a_session_arrives_after_its_commit(
    push: MeetingPush, engine: AsyncEngine
) -> None:
    async with AsyncSession(engine) as session:
        accepted = await push.messages.send_in_transaction(session, ALICE, DRAFT)
        await session.commit()
    push.messages.notify_committed()
    await arrives(push, accepted.message_id)


async def test_a_message_in_a_connection_arrives_without_any_notice(
    push: MeetingPush, engine: AsyncEngine
) -> None:
    async with engine.begin() as connection:
        accepted = await push.messages.send_in_transaction(connection, ALICE, DRAFT)
    await arrives(push, accepted.message_id)


async def test_a_rolled_back_message_never_was(push: MeetingPush, engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        accepted = await push.messages.send_in_transaction(session, ALICE, DRAFT)
        await session.rollback()
    push.messages.notify_committed()
    with pytest.raises(NotFoundError):
        await push.confirmation.get_message_delivery_status(accepted.message_id)


async def test_a_transaction_on_another_kind_of_database_is_refused(
    push: MeetingPush, tmp_path: Path
) -> None:
    if push._rooms.record.database.is_sqlite:
        pytest.skip("needs a foreign SQLite beside PostgreSQL")
    foreign = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/foreign.db")
    async with foreign.connect() as connection:
        with pytest.raises(InvalidInputError):
            await push.messages.send_in_transaction(connection, ALICE, DRAFT)
    await foreign.dispose()
