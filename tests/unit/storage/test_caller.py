"""调用者自己的事务：同步的、异步的，名字照设置。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text
from sqlalchemy import create_engine as create_sync_engine
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from meeting_push.app import MeetingPush
from meeting_push.errors import InvalidInputError, NotFoundError, UnknownRecipientsError
from meeting_push.model import Draft, Sender
from meeting_push.settings import Settings
from meeting_push.storage.engine import async_url
from tests.support.eventually import eventually
from tests.support.node import node
from tests.support.redis_server import RedisServer

ALICE, BOB = Sender(1, "alice"), 2
DRAFT = Draft(recipient_ids=(BOB,), title="t", content="c")


@pytest.fixture
async def push(
    redis_server: RedisServer, database_url: str, tmp_path: Path, key_prefix: str
) -> AsyncIterator[MeetingPush]:
    async with node(redis_server.url, database_url, tmp_path, key_prefix=key_prefix) as one:
        yield one


async def arrives(push: MeetingPush, message_id: str) -> None:
    async def there() -> bool:
        held = await push.mailbox.get_offline_messages(BOB)
        return message_id in {one.tail.message_id for one in held}

    await eventually(there)


# ── 同步的事务 ───────────────────────────────────────────────────────────────


@pytest.fixture
def sync_engine(database_url: str) -> Iterator[Engine]:
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        one = create_sync_engine(url.set(drivername="sqlite"))
    else:
        one = create_sync_engine(url.set(drivername="postgresql+psycopg"))
    yield one
    one.dispose()


async def test_a_message_in_a_synchronous_session_arrives_after_its_commit(
    push: MeetingPush, sync_engine: Engine
) -> None:
    with Session(sync_engine) as session:
        accepted = await push.messages.send_in_transaction(session, ALICE, DRAFT)
        session.commit()
    push.messages.notify_committed()
    await arrives(push, accepted.message_id)


async def test_a_thread_without_an_event_loop_sends_in_its_own_transaction(
    push: MeetingPush, sync_engine: Engine
) -> None:
    def task() -> str:
        with sync_engine.begin() as connection:
            accepted = push.messages.send_in_transaction_sync(connection, ALICE, DRAFT)
        push.messages.notify_committed()
        return accepted.message_id

    await arrives(push, await asyncio.to_thread(task))


async def test_a_process_that_never_started_sends_in_its_own_transaction(
    push: MeetingPush, sync_engine: Engine
) -> None:
    """Celery 的任务：只有设置与数据库；两次，各一个临时的事件循环。"""
    idle = MeetingPush(push.settings)

    def task() -> list[str]:
        found = []
        for _ in range(2):
            with Session(sync_engine) as session, session.begin():
                sent = idle.messages.send_in_transaction_sync(session, ALICE, DRAFT)
                found.append(sent.message_id)
        return found

    for message_id in await asyncio.to_thread(task):
        await arrives(push, message_id)


async def test_a_synchronous_transaction_rolled_back_sends_nothing(
    push: MeetingPush, sync_engine: Engine
) -> None:
    def task() -> str:
        with Session(sync_engine) as session:
            accepted = push.messages.send_in_transaction_sync(session, ALICE, DRAFT)
            session.rollback()
        push.messages.notify_committed()
        return accepted.message_id

    message_id = await asyncio.to_thread(task)
    with pytest.raises(NotFoundError):
        await push.confirmation.get_message_delivery_status(message_id)


async def test_in_an_event_loop_the_synchronous_call_is_refused(
    push: MeetingPush, sync_engine: Engine
) -> None:
    with sync_engine.connect() as connection, pytest.raises(RuntimeError):
        push.messages.send_in_transaction_sync(connection, ALICE, DRAFT)


class OnlyBob:
    async def existing_ids(self, user_ids: Sequence[int]) -> set[int]:
        return {BOB} & set(user_ids)


async def test_somebody_unknown_is_our_error_in_every_kind_of_transaction(
    redis_server: RedisServer, database_url: str, sync_engine: Engine, tmp_path: Path
) -> None:
    given = {"redis_url": redis_server.url, "database_url": database_url, "data_dir": tmp_path}
    push = MeetingPush(Settings(**given), directory=OnlyBob())
    draft = Draft(recipient_ids=(BOB, 404), title="t", content="c")

    def task() -> None:
        with sync_engine.begin() as connection:
            push.messages.send_in_transaction_sync(connection, ALICE, draft)

    with pytest.raises(UnknownRecipientsError):
        await asyncio.to_thread(task)
    with Session(sync_engine) as session, pytest.raises(UnknownRecipientsError):
        await push.messages.send_in_transaction(session, ALICE, draft)


@pytest.mark.parametrize("named", [{"table_prefix": "x_"}, {"database_schema": "own"}])
async def test_a_transaction_says_the_names_of_the_settings(
    redis_server: RedisServer, empty_database_url: str, tmp_path: Path, named: dict[str, str]
) -> None:
    """前缀、schema 也管应用自己的连接上我们说的话；那条连接此后照旧。"""
    if "database_schema" in named and empty_database_url.startswith("sqlite"):
        pytest.skip("SQLite has no schemas")
    prefix = f"test-{uuid4().hex[:12]}:"
    engine = create_async_engine(async_url(empty_database_url))
    async with node(
        redis_server.url, empty_database_url, tmp_path, key_prefix=prefix, **named
    ) as push:
        async with AsyncSession(engine) as session:
            accepted = await push.messages.send_in_transaction(session, ALICE, DRAFT)
            assert await session.scalar(text("SELECT 'mp_messages'")) == "mp_messages"
            await session.commit()
        push.messages.notify_committed()
        await arrives(push, accepted.message_id)
    await engine.dispose()


# ── 头一次见到的人 ────────────────────────────────────────────────────────────

CUSTOMER = "7c1f0c2e-9d53-4c1c-8f7a-2b6a5d0e9b11"
TO_CUSTOMER = Draft(recipient_ids=(CUSTOMER,), title="t", content="c")
ORDERED = text("INSERT INTO orders VALUES ('tent')")


@pytest.fixture
def orders(sync_engine: Engine) -> None:
    """应用自己的表；在我们的节点之前：它的事件循环停着，写锁就在它手里。"""
    with sync_engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (what VARCHAR(10))"))


@pytest.fixture
async def async_orders(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(async_url(database_url))
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE orders (what VARCHAR(10))"))
    yield engine
    await engine.dispose()


async def reaches(push: MeetingPush, person: str, *message_ids: str) -> None:
    people = push._rooms.record.people

    async def there() -> bool:
        held = await push.mailbox.get_offline_messages(await people.number(person))
        return set(message_ids) == {one.tail.message_id for one in held}

    await eventually(there)


async def test_somebody_new_is_met_in_a_transaction_that_wrote_already(
    async_orders: AsyncEngine, push: MeetingPush
) -> None:
    """SQLite 的写锁已在应用手里：另一条连接上认不下谁。"""
    sender = Sender("shop@example", "shop")
    async with AsyncSession(async_orders) as session:
        await session.execute(ORDERED)
        first = await push.messages.send_in_transaction(session, sender, TO_CUSTOMER)
        second = await push.messages.send_in_transaction(session, sender, TO_CUSTOMER)
        await session.commit()
    push.messages.notify_committed()
    await reaches(push, CUSTOMER, first.message_id, second.message_id)


async def test_somebody_new_is_met_in_a_synchronous_transaction_that_wrote_already(
    orders: None, push: MeetingPush, sync_engine: Engine
) -> None:
    def task() -> str:
        with Session(sync_engine) as session, session.begin():
            session.execute(ORDERED)
            sent = push.messages.send_in_transaction_sync(session, ALICE, TO_CUSTOMER)
        push.messages.notify_committed()
        return sent.message_id

    await reaches(push, CUSTOMER, await asyncio.to_thread(task))


async def test_a_process_that_never_started_meets_somebody_new(
    orders: None, push: MeetingPush, sync_engine: Engine
) -> None:
    idle = MeetingPush(push.settings)

    def task() -> str:
        with sync_engine.begin() as connection:
            connection.execute(ORDERED)
            sent = idle.messages.send_in_transaction_sync(connection, ALICE, TO_CUSTOMER)
        return sent.message_id

    message_id = await asyncio.to_thread(task)
    push.messages.notify_committed()
    await reaches(push, CUSTOMER, message_id)


async def test_who_was_met_in_a_transaction_rolled_back_never_was(
    async_orders: AsyncEngine, push: MeetingPush
) -> None:
    """他的号给了别人；不在任何人的记忆里。"""
    people = push._rooms.record.people
    async with AsyncSession(async_orders) as session:
        await session.execute(ORDERED)
        await push.messages.send_in_transaction(session, Sender("shop", "s"), TO_CUSTOMER)
        push.messages.notify_committed()
        await session.rollback()
    push.messages.notify_committed()
    assert CUSTOMER not in people._numbers
    assert "shop" not in people._numbers
    others = [await people.number(f"other-{n}") for n in range(3)]
    sent = await push.messages.send_message(ALICE, CUSTOMER, "t", "c")
    assert await people.number(CUSTOMER) not in others
    await reaches(push, CUSTOMER, sent.message_id)
    for number in others:
        assert await push.mailbox.get_offline_message_count(number) == 0


async def test_who_was_met_is_remembered_once_the_transaction_is_committed(
    async_orders: AsyncEngine, push: MeetingPush
) -> None:
    people = push._rooms.record.people
    for _ in range(2):
        async with AsyncSession(async_orders) as session:
            await session.execute(ORDERED)
            await push.messages.send_in_transaction(session, ALICE, TO_CUSTOMER)
            await session.commit()
    assert people._persons[people._numbers[CUSTOMER]] == CUSTOMER


class OnlyAnn:
    async def existing_ids(self, user_ids: Sequence[int | str]) -> set[int | str]:
        return {one for one in user_ids if one in ("ann", 1)}


@pytest.mark.parametrize("draft", [
    Draft(recipient_ids=("ann", "eve"), title="t", content="c"),
    Draft(recipient_ids=("ann", 2), title="t", content="c"),
    Draft(recipient_ids=("ann",), title="t", content="c", sender=Sender("eve", "e")),
])  # fmt: skip
async def test_a_stranger_the_directory_does_not_know_is_refused_before_anything_is_written(
    redis_server: RedisServer, async_orders: AsyncEngine, database_url: str, tmp_path: Path,
    draft: Draft,
) -> None:  # fmt: skip
    given = {"redis_url": redis_server.url, "database_url": database_url, "data_dir": tmp_path}
    push = MeetingPush(Settings(**given), directory=OnlyAnn())
    async with AsyncSession(async_orders) as session:
        await session.execute(ORDERED)
        with pytest.raises(InvalidInputError):
            await push.messages.send_in_transaction(session, ALICE, draft)
        assert await session.scalar(text("SELECT count(*) FROM mp_people")) == 0
        known = Draft(recipient_ids=("ann",), title="t", content="c")
        await push.messages.send_in_transaction(session, ALICE, known)
        await session.commit()
    await push._rooms.record.database.dispose()
