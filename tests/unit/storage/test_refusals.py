"""B3：数据库说“现在不行”，不论是哪一类，都是一个暂时的错误，带着一个词的原因；真的数据库。"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi

from meeting_push.errors import DatabaseUnavailableError
from meeting_push.storage.database import Database
from meeting_push.storage.failures import converted_failures
from tests.support.postgres_server import PostgresServer


@pytest.fixture
async def postgres_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


async def write(database: Database, statements: tuple[str, ...]) -> None:
    async with database.transaction() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def refusal(url: str, *statements: str) -> str:
    """最后一句的原因；在一个写事务里。"""
    database = Database(url, 3)
    try:
        with pytest.raises(DatabaseUnavailableError) as caught:
            await write(database, statements)
    finally:
        await database.dispose()
    assert caught.value.temporary
    return caught.value.cause


def test_b3_a_probe_the_database_refuses_is_no_error_of_ours() -> None:
    """B3: 借连接时的探测超时，SQLAlchemy 不包它，原样抛出驱动的：日志里曾是一个回溯。"""
    canceled = asyncpg.QueryCanceledError("canceling statement due to statement timeout")
    with pytest.raises(DatabaseUnavailableError) as caught, converted_failures():
        raise AsyncAdapt_asyncpg_dbapi.Error(str(canceled), canceled)  # type: ignore[no-untyped-call]
    assert caught.value.cause == "timeout"


@pytest.mark.parametrize(
    ("statements", "cause"),
    [
        (("SET TRANSACTION READ ONLY", "CREATE TABLE t (x int)"), "readonly"),
        (("SET LOCAL statement_timeout = 50", "SELECT pg_sleep(2)"), "timeout"),
        (("SET LOCAL ROLE pg_monitor", "CREATE TABLE public.t (x int)"), "noperm"),
        (("DO $$ BEGIN RAISE SQLSTATE '53100'; END $$",), "disk_full"),
        (("DO $$ BEGIN RAISE SQLSTATE '53300'; END $$",), "too_many_clients"),
        (("DO $$ BEGIN RAISE SQLSTATE '53999'; END $$",), "out_of_resources"),
        (("DO $$ BEGIN RAISE SQLSTATE '26000'; END $$",), "pooled"),
        (("DO $$ BEGIN RAISE SQLSTATE '25P03'; END $$",), "readonly"),
        (("DO $$ BEGIN RAISE SQLSTATE '55P03'; END $$",), "locked"),
        (("DO $$ BEGIN RAISE SQLSTATE 'XX001'; END $$",), "corrupt"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_postgresql_refuses(
    postgres_url: str, statements: tuple[str, ...], cause: str
) -> None:
    """B3：按 SQLSTATE 的类，不按名字。"""
    assert await refusal(postgres_url, *statements) == cause


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """B3：SQLite 的 NOTADB。"""
    path = tmp_path / "x.db"
    path.write_bytes(b"this is not a database, it only looks like a file" * 100)
    assert await refusal(f"sqlite:///{path}", "SELECT * FROM sqlite_master") == "corrupt"


async def test_a_full_sqlite(tmp_path: Path) -> None:
    """B3：SQLite 的 FULL。"""
    url = f"sqlite:///{tmp_path / 'x.db'}"
    fill = "INSERT INTO t SELECT randomblob(100000)"
    statements = ("PRAGMA max_page_count = 10", "CREATE TABLE t (x)", fill, fill)
    assert await refusal(url, *statements) == "disk_full"
