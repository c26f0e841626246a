"""``Database``：地址、事务、持久、迁移、异常的转换。"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, text
from sqlalchemy.exc import ProgrammingError

from meeting_push.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    InvalidInputError,
    MeetingPushError,
)
from meeting_push.storage.database import Database
from meeting_push.storage.engine import async_url, asyncpg_url
from meeting_push.storage.migration import HEAD, MIGRATIONS
from meeting_push.storage.naming import VERSION_TABLE
from meeting_push.storage.tables import idempotency_keys, metadata
from tests.support.postgres_server import PostgresServer

KEY = {"sender_id": 1, "request_hash": b"h", "response": "{}", "created_at": 0}


async def save_key(database: Database, key: str) -> None:
    async with database.transaction() as connection:
        await connection.execute(insert(idempotency_keys), {**KEY, "key": key})


async def count_keys(database: Database) -> int:
    async with database.connect() as connection:
        return await connection.scalar(text("SELECT count(*) FROM mp_idempotency_keys")) or 0


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("sqlite:///x.db", "sqlite+aiosqlite"),
        ("sqlite+aiosqlite:////tmp/x.db", "sqlite+aiosqlite"),
        ("postgresql://u:p@h/d", "postgresql+asyncpg"),
        ("postgres://u:p@h/d", "postgresql+asyncpg"),
        ("postgresql+psycopg://u:p@h/d", "postgresql+asyncpg"),
    ],
)
def test_friendly_urls_get_an_asynchronous_driver(given: str, driver: str) -> None:
    assert async_url(given).drivername == driver


def test_sslmode_reaches_asyncpg_which_reads_the_certificates_too() -> None:
    address, arguments = asyncpg_url(async_url("postgresql://h/d?sslmode=require"))
    assert address.query == {}
    assert arguments == {"dsn": "postgresql://?sslmode=require"}


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://h/d", "sqlite://", "sqlite:///:memory:"])
def test_an_unusable_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError):
        async_url(url)


def test_a_refused_url_does_not_show_its_password() -> None:
    with pytest.raises(ConfigurationError) as caught:
        async_url("mysql://u:hunter2@h/d")
    assert "hunter2" not in str(caught.value)


async def test_a_committed_transaction_is_seen_by_others(database: Database) -> None:
    await save_key(database, "a")
    assert await count_keys(database) == 1


async def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    async def save_and_fail() -> None:
        async with database.transaction() as connection:
            await connection.execute(insert(idempotency_keys), {**KEY, "key": "a"})
            raise LookupError

    with pytest.raises(LookupError):
        await save_and_fail()
    assert await count_keys(database) == 0


async def test_a_cancelled_transaction_leaves_nothing_and_frees_the_lock(
    database: Database,
) -> None:
    inside = asyncio.Event()

    async def hold() -> None:
        async with database.transaction() as connection:
            await connection.execute(insert(idempotency_keys), {**KEY, "key": "a"})
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await inside.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await save_key(database, "b")
    assert await count_keys(database) == 1


async def test_more_writers_than_connections_all_succeed(database: Database) -> None:
    await asyncio.gather(*(save_key(database, f"k{n}") for n in range(40)))
    assert await count_keys(database) == 40


async def test_two_processes_may_write_to_one_sqlite_file(tmp_path: Path) -> None:
    one = Database(f"sqlite:///{tmp_path}/x.db")
    two = Database(f"sqlite:///{tmp_path}/x.db")
    await asyncio.gather(one.migrate(), two.migrate())
    await asyncio.gather(*(save_key(d, f"{n}{id(d)}") for n in range(20) for d in (one, two)))
    assert await count_keys(one) == 40
    await one.dispose()
    await two.dispose()


async def test_a_locked_sqlite_file_is_temporarily_unavailable(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db", timeout_s=0.05)
    await database.migrate()
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailableError) as caught:
        await save_key(database, "a")
    assert caught.value.temporary
    other.close()
    await database.dispose()


async def test_waiting_for_the_writers_turn_has_a_limit(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db", timeout_s=0.05)
    await database.migrate()
    async with database.transaction():
        with pytest.raises(DatabaseUnavailableError):
            await save_key(database, "a")
    await database.dispose()


@pytest.mark.parametrize(
    "url",
    ["sqlite:////proc/nowhere/x.db", "postgresql://u@127.0.0.1:1/d", "postgresql://u@/d?host=/no"],
)
async def test_an_unreachable_database_is_unavailable(url: str) -> None:
    database = Database(url, timeout_s=1)
    with pytest.raises(DatabaseUnavailableError):
        await database.ping()
    with pytest.raises(DatabaseUnavailableError):
        await database.migrate()
    await database.dispose()
    await worker_threads_end()


async def worker_threads_end() -> None:
    """aiosqlite 打开失败时不等自己的线程；它若活过事件循环，就会对着关掉的循环报错。"""
    workers = [t for t in threading.enumerate() if "_connection_worker_thread" in t.name]
    for worker in workers:
        await asyncio.to_thread(worker.join, 5)


async def test_a_slow_statement_is_cut_off(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database()
    database = Database(url, timeout_s=0.2)
    with pytest.raises(DatabaseUnavailableError):
        async with database.connect() as connection:
            await connection.execute(text("SELECT pg_sleep(30)"))
    await database.dispose()
    postgres_server.drop_database(url)


async def test_after_the_server_drops_its_connections_the_pool_recovers(
    postgres_server: PostgresServer,
) -> None:
    url = postgres_server.create_database()
    database, killer = Database(url), Database(url)
    await database.ping()
    async with killer.connect() as connection:
        await connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    with suppress(DatabaseUnavailableError):  # 刚用过的不先问一声：正好遇上的这一句可以失败
        await database.ping()
    await database.ping()
    await database.dispose()
    await killer.dispose()
    postgres_server.drop_database(url)


@pytest.mark.parametrize("value", ["\ud800", "nul\0"])
async def test_text_that_can_not_be_stored_is_bad_input_and_never_a_crash(
    database: Database, value: str
) -> None:
    if database.is_sqlite and "\0" in value:
        pytest.skip("SQLite stores NUL")
    with pytest.raises(InvalidInputError):
        await save_key(database, value)


async def test_an_integer_beyond_64_bits_is_bad_input(database: Database) -> None:
    with pytest.raises(InvalidInputError):
        async with database.connect() as connection:
            await connection.execute(
                idempotency_keys.select().where(idempotency_keys.c.sender_id == 2**63)
            )


async def test_our_own_mistakes_in_sql_are_not_disguised(database: Database) -> None:
    with pytest.raises(Exception, match="no_such_table") as caught:
        async with database.connect() as connection:
            await connection.execute(text("SELECT * FROM no_such_table"))
    assert not isinstance(caught.value, MeetingPushError)


async def test_an_error_does_not_show_the_values(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database()
    database = Database(url)
    with pytest.raises(ProgrammingError) as caught:
        async with database.connect() as connection:
            await connection.execute(text("SELECT :secret FROM nowhere"), {"secret": "hunter2"})
    assert "hunter2" not in str(caught.value)
    await database.dispose()
    postgres_server.drop_database(url)


async def test_sqlite_waits_for_the_disk_at_each_commit(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    await database.migrate()
    await count_keys(database)  # 迁移之前打开的连接，读过一次才知道已是 WAL
    async with database.connect() as connection:
        found = [
            await connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert found == ["wal", 2, 1]  # 2 = FULL
    await database.dispose()


async def test_migrating_again_changes_nothing(database: Database) -> None:
    await save_key(database, "a")
    await database.migrate()
    assert not await database.needs_migration()
    assert await count_keys(database) == 1


async def test_many_processes_may_migrate_at_once(empty_database_url: str) -> None:
    databases = [Database(empty_database_url) for _ in range(6)]
    assert await databases[0].needs_migration()
    await asyncio.gather(*(database.migrate() for database in databases))
    assert not await databases[0].needs_migration()
    for database in databases:
        await database.dispose()


async def test_a_failed_migration_leaves_an_empty_database(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    async with database.transaction() as connection:
        # 五张表里的最后一张已被占用：前四张也不得留下
        await connection.execute(text("CREATE TABLE mp_idempotency_keys (x INTEGER)"))
    with pytest.raises(Exception, match="idempotency_keys"):
        await database.migrate()
    async with database.connect() as connection:
        with pytest.raises(Exception, match="messages"):
            await connection.execute(text("SELECT * FROM mp_messages"))
    await database.dispose()


async def test_a_database_from_a_newer_program_is_refused(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE mp_alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match="newer"):
        await database.migrate()


async def test_the_tables_and_the_migrations_agree(database: Database) -> None:
    def differences(connection: Connection) -> object:
        return compare_metadata(
            MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}), metadata
        )

    async with database.connect() as connection:
        assert await connection.run_sync(differences) == []


def test_head_names_the_newest_migration() -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == HEAD
    assert MIGRATIONS.is_dir()


# ── 数得到的 ─────────────────────────────────────────────────────────────────


async def test_statements_and_waits_are_timed(database: Database) -> None:
    figures = database.figures
    before = figures.statements.count, figures.waits.count
    await save_key(database, "a")
    await count_keys(database)
    assert figures.statements.count - before[0] >= 2
    assert figures.waits.count - before[1] == 2
    assert database.pool()[0] == 0


async def test_a_failure_is_counted_by_its_cause(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'gone.db'}", timeout_s=1)
    await database.migrate()
    (tmp_path / "gone.db").unlink()
    with pytest.raises(DatabaseUnavailableError):
        await database.ping()
    await database.dispose()
    assert database.figures.failures == {"file_gone": 1}
