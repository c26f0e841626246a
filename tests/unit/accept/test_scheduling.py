"""预约：到时才送、到时之前可以撤回；以及在调用者自己的事务里发送。"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from meeting_push.app import MeetingPush
from meeting_push.errors import InvalidInputError, NotFoundError
from meeting_push.model import USER_ROLE, Draft, Principal, QueueEntry, Sender
from meeting_push.storage.database import async_url
from tests.support.eventually import eventually
from tests.support.node import node
from tests.support.people import Person, api_of, delivery, register, send
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

ALICE, BOB = Sender(1, "alice"), 2
HOUR_MS = 3_600_000
ROOT = Path(__file__).parents[3]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


# ── 撤回，从外面 ──────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("scheduling")) as process:
        yield process


@pytest.fixture
async def alice(server: ServerProcess) -> Person:
    return await register(server.base_url, "alice")


@pytest.fixture
async def bob(server: ServerProcess) -> Person:
    return await register(server.base_url, "bob")


async def cancel(server: ServerProcess, who: Person, message_id: str) -> tuple[int, str | None]:
    async with api_of(server.base_url, who) as api:
        answer = await api.delete(f"/messages/{message_id}")
    code = None if answer.status_code == 204 else answer.json()["error"]["code"]
    return answer.status_code, code


async def test_a_cancelled_message_failed_with_its_reason(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    message_id = await send(server.base_url, alice, [bob], deliver_at=now_ms() + HOUR_MS)
    assert await cancel(server, alice, message_id) == (204, None)
    report = await delivery(server.base_url, alice, message_id)
    assert (report["failed"], report["pending"]) == (1, 0)
    assert report["recipients"][0]["failure_reason"] == "cancelled"


async def test_cancelling_twice_is_harmless(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    message_id = await send(server.base_url, alice, [bob], deliver_at=now_ms() + HOUR_MS)
    answers = [await cancel(server, alice, message_id) for _ in range(2)]
    assert answers == [(204, None)] * 2


@pytest.mark.parametrize("ahead_ms", [None, -HOUR_MS, 100], ids=["now", "past", "about to be"])
async def test_what_is_due_can_not_be_cancelled(
    server: ServerProcess, alice: Person, bob: Person, ahead_ms: int | None
) -> None:
    due = None if ahead_ms is None else now_ms() + ahead_ms
    message_id = await send(server.base_url, alice, [bob], deliver_at=due)
    assert await cancel(server, alice, message_id) == (409, "already_due")


async def test_sec_1_only_the_sender_cancels(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    message_id = await send(server.base_url, alice, [bob], deliver_at=now_ms() + HOUR_MS)
    assert await cancel(server, bob, message_id) == (404, "not_found")


# ── 撤回，从里面 ──────────────────────────────────────────────────────────────


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
    alice = Principal(ALICE.id, USER_ROLE, issued_at=0, expires_at=HOUR_MS)
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


def test_the_example_runs(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MEETING_PUSH_")}
    env["MEETING_PUSH_DATA_DIR"] = str(tmp_path)
    script = ROOT / "examples" / "in_your_transaction.py"
    done = subprocess.run(
        [sys.executable, script], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "waiting for the buyer: a tent\n"
