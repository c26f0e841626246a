"""E7：503 可能已经存下了：提交发出去而没有回答，与“什么都没有保存”是两回事。"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from meeting_push.accept.idempotency import IdempotentStore
from meeting_push.clock import now_ms
from meeting_push.errors import DatabaseUnavailableError, InvalidInputError, OutcomeUnknownError
from meeting_push.model import Message, Outgoing, Sender
from meeting_push.storage.accept_batch import AcceptBatch
from meeting_push.storage.database import Database, SqlConnection
from meeting_push.storage.idempotency import IdempotencyRepository
from meeting_push.storage.messages import MessageRepository
from meeting_push.storage.rows import StoredResponse
from meeting_push.storage.sqlite_writer import SqliteWriter
from meeting_push_bench.tcp_proxy import TcpProxy
from tests.support.eventually import eventually
from tests.support.postgres_server import PostgresServer

INSERT = text("INSERT INTO mp_revocation_version (id, version) VALUES (7, 1)")


@asynccontextmanager
async def behind_a_proxy(
    url: str, postgres_server: PostgresServer
) -> AsyncIterator[tuple[Database, TcpProxy]]:
    """库在一个能吞掉回答的代理后面；语句时限半秒。"""
    proxy = TcpProxy(str(postgres_server.directory / ".s.PGSQL.5432"))
    await proxy.start()
    name = url.partition("?")[0].rpartition("/")[2]
    database = Database(f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}", timeout_s=0.5)
    try:
        yield database, proxy
    finally:
        proxy.release()
        await database.dispose()
        await proxy.close()


def nothing() -> None:
    """网络好着。"""


async def write(
    database: Database,
    *,
    before: Callable[[], None] = nothing,
    after: Callable[[], None] = nothing,
) -> None:
    """一个写事务；``before`` 在语句之前，``after`` 在语句之后、提交之前。"""
    async with database.transaction() as connection:
        before()
        await connection.execute(INSERT)
        after()


async def stored(url: str) -> bool:
    database = Database(url)
    async with database.connect() as connection:
        found = await connection.scalar(
            text("SELECT count(*) FROM mp_revocation_version WHERE id=7")
        )
    await database.dispose()
    return bool(found)


async def test_e7_a_commit_whose_answer_is_lost_is_unknown_and_may_be_stored(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    async with behind_a_proxy(postgres_url, postgres_server) as (database, proxy):
        with pytest.raises(OutcomeUnknownError):
            await write(database, after=partial(proxy.swallow, answers_only=True))
        assert await stored(postgres_url)


async def test_e7_a_connection_cut_at_the_commit_is_unknown(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    async with behind_a_proxy(postgres_url, postgres_server) as (database, proxy):
        with pytest.raises(OutcomeUnknownError):
            await write(database, after=proxy.cut)


async def test_e7_what_fails_before_the_commit_is_surely_not_stored(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    async with behind_a_proxy(postgres_url, postgres_server) as (database, proxy):
        with pytest.raises(DatabaseUnavailableError) as caught:
            await write(database, before=partial(proxy.swallow, answers_only=True))
        assert not isinstance(caught.value, OutcomeUnknownError)
        proxy.release()
        assert not await stored(postgres_url)


async def test_e7_a_commit_the_database_refuses_is_surely_not_stored(postgres_url: str) -> None:
    """串行化冲突在 COMMIT 时才报：数据库明说了没有。"""
    database = Database(postgres_url)
    deferred = (
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE serialization_failure; END $$",
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON mp_revocation_version"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    async with database.transaction() as connection:
        for statement in deferred:
            await connection.execute(text(statement))
    with pytest.raises(DatabaseUnavailableError) as caught:
        await write(database)
    assert not isinstance(caught.value, OutcomeUnknownError)
    await database.dispose()
    assert not await stored(postgres_url)


class Uncertain(sqlite3.Connection):
    """提交了，却说磁盘出错。"""

    code = sqlite3.SQLITE_IOERR

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        done = super().execute(sql, *args)
        if sql == "COMMIT":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = self.code
            raise error
        return done


class Full(Uncertain):
    code = sqlite3.SQLITE_FULL


@pytest.mark.parametrize(("kind", "unknown"), [(Uncertain, True), (Full, False)])
async def test_e7_sqlite_knows_the_difference_too(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, kind: type[Uncertain], unknown: bool
) -> None:
    database = Database(sqlite_url)

    def connect(writer: SqliteWriter) -> sqlite3.Connection:
        return sqlite3.connect(
            writer._path, isolation_level=None, check_same_thread=False, factory=kind
        )

    monkeypatch.setattr(SqliteWriter, "_connect", connect)
    statement = ("INSERT INTO mp_revocation_version (id, version) VALUES (7, 1)", ())
    with pytest.raises(DatabaseUnavailableError) as caught:
        await database.write_sqlite([statement])
    assert isinstance(caught.value, OutcomeUnknownError) is unknown
    await database.dispose()


class Doubtful(MessageRepository):
    """存下之后说不知道；记下被叫了几次。"""

    calls = 0

    async def store(self, items: Any, claims: Any = ()) -> bool:
        self.calls += 1
        await super().store(items, claims)
        raise OutcomeUnknownError


async def test_e7_a_group_of_unknown_outcome_is_never_stored_again(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    messages = Doubtful(database)
    batch = AcceptBatch(messages)
    results = await asyncio.gather(
        *(batch.insert([Outgoing(message(number), [1])]) for number in range(3)),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [OutcomeUnknownError] * 3
    assert messages.calls == 1
    await database.dispose()


def message(number: int) -> Message:
    return Message(
        message_id=f"{number:026d}",
        message_type="message",
        priority=0,
        title="t",
        content="c",
        sender=Sender(1, "a"),
        timestamp=1,
        expires_at=4_000_000_000_000,
    )


async def test_a_value_that_can_not_be_stored_is_not_unknown(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with pytest.raises(InvalidInputError):
        await database.write_sqlite(
            [("INSERT INTO mp_revocation_version (id, version) VALUES (?, 1)", (2**70,))]
        )
    await database.dispose()


async def test_e7_a_caller_who_gave_up_during_the_commit_may_try_again_with_his_key(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    async with behind_a_proxy(postgres_url, postgres_server) as (database, proxy):
        store = IdempotentStore(database, IdempotencyRepository(database))
        written: list[str] = []

        async def send(answer: str, *, lose_the_answer: bool) -> str | None:
            async def accept(connection: SqlConnection) -> None:
                await connection.execute(INSERT)
                written.append(answer)
                if lose_the_answer:
                    proxy.swallow(answers_only=True)

            mine = StoredResponse(b"body", answer)
            return await store.once(1, "key", mine, now_ms(), accept)

        first = asyncio.create_task(send("first", lose_the_answer=True))
        await eventually(lambda: proxy.swallowed)  # 提交的回答来了，被吞了
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        proxy.release()
        assert await send("second", lose_the_answer=False) == "first"
        assert written == ["first"]
