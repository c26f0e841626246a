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
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from meeting_push.app import MeetingPush
from meeting_push.errors import NotFoundError, UnknownRecipientsError
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
        pytest.importorskip("psycopg", reason="the application's own synchronous driver")
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
