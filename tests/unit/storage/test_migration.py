"""E10：迁移不挡写入，有来有回，说得出库比程序新。"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from typer.testing import CliRunner

from meeting_push import doctor
from meeting_push.cli import app
from meeting_push.errors import ConfigurationError
from meeting_push.settings import Settings
from meeting_push.storage import migration
from meeting_push.storage.database import Database
from meeting_push.storage.migration import HEAD, MIGRATIONS
from meeting_push.storage.naming import VERSION_TABLE
from meeting_push.storage.tables import metadata
from tests.support.eventually import eventually

INSERT = text(
    "INSERT INTO mp_message_recipients (message_id, user_id, status, attempts)"
    " VALUES (:id, 1, 'pending', 0)"
)


@pytest.fixture
def on_postgres(database: Database) -> Database:
    if database.is_sqlite:
        pytest.skip("SQLite has one writer anyway")
    return database


async def stamp(database: Database, version: str) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            text("UPDATE mp_alembic_version SET version_num = :version"), {"version": version}
        )


async def differences(database: Database) -> object:
    def compare(connection: Connection) -> object:
        return compare_metadata(
            MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}), metadata
        )

    async with database.connect() as connection:
        return await connection.run_sync(compare)


async def write(database: Database, message_id: str) -> None:
    async with database.transaction() as connection:
        await connection.execute(INSERT, {"id": message_id})


async def test_e10_the_new_index_is_built_without_blocking_writers(on_postgres: Database) -> None:
    """0006 → 0007：一个长的写事务开着，迁移等它；别人的写入不跟着等。"""
    await on_postgres.downgrade("0006")
    async with on_postgres.transaction() as slow:
        await slow.execute(INSERT, {"id": "slow"})
        migrating = asyncio.create_task(on_postgres.migrate())
        await waiting_for_a_lock(on_postgres)
        await asyncio.wait_for(write(on_postgres, "quick"), 2)
        assert not migrating.done()
    await asyncio.wait_for(migrating, 30)
    assert await differences(on_postgres) == []


async def waiting_for_a_lock(database: Database) -> None:
    statement = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")

    async def waits() -> bool:
        async with database.connect() as connection:
            return bool(await connection.scalar(statement))

    await eventually(waits, 20)


async def test_e10_a_migration_that_waits_for_a_lock_lets_the_others_pass(
    on_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ALTER TABLE 排在长事务后面时，后来的都排在它后面：所以它让开再来。"""
    monkeypatch.setattr(migration, "_PG_LOCK_TIMEOUT", text("SET LOCAL lock_timeout = '200ms'"))
    await on_postgres.downgrade("0007")
    async with on_postgres.transaction() as slow:
        await slow.execute(text("SELECT * FROM mp_delivery_generation"))
        migrating = asyncio.create_task(on_postgres.migrate())
        await waiting_for_a_lock(on_postgres)
        async with on_postgres.transaction() as other:
            await asyncio.wait_for(other.execute(text("SELECT * FROM mp_delivery_generation")), 5)
        assert not migrating.done()
    await asyncio.wait_for(migrating, 30)


async def test_e10_an_index_left_half_built_is_built_again(on_postgres: Database) -> None:
    await on_postgres.downgrade("0006")
    async with on_postgres.transaction() as connection:
        await connection.execute(
            text("CREATE INDEX mp_ix_recipients_inbox_next ON mp_message_recipients (user_id)")
        )
    await on_postgres.migrate()
    assert await differences(on_postgres) == []


async def test_e10_columns_added_and_an_index_left_half_built_are_gone_on_with(
    on_postgres: Database,
) -> None:
    """0011 → 0012 死在半路：不在一个事务里，从头再做一遍。"""
    await on_postgres.downgrade("0011")
    async with on_postgres.transaction() as connection:
        for statement in (
            "ALTER TABLE mp_message_recipients ADD COLUMN failure_cause varchar(16)",
            "CREATE INDEX mp_ix_recipients_expired ON mp_message_recipients (failure_cause)",
        ):
            await connection.execute(text(statement))
    await on_postgres.migrate()
    assert await differences(on_postgres) == []


async def test_e10_there_is_a_way_back_from_every_step(database: Database) -> None:
    script = ScriptDirectory(str(MIGRATIONS))
    for step in script.iterate_revisions(HEAD, "base"):
        await database.downgrade(str(step.down_revision or "base"))
    await database.migrate()
    assert await differences(database) == []


async def test_e10_a_newer_database_is_named_so(database: Database) -> None:
    await stamp(database, f"{int(HEAD) + 2:04d}")
    with pytest.raises(ConfigurationError, match="newer than this program"):
        await database.migrate()
    with pytest.raises(ConfigurationError, match="newer than this program"):
        await database.check_schema()


async def test_e10_one_step_newer_is_taken_as_it_is(database: Database) -> None:
    """先扩后缩：滚动升级时，旧程序在新一步的库上照样能启动。"""
    await stamp(database, f"{int(HEAD) + 1:04d}")
    await database.migrate()
    await write(database, "m")


async def test_e10_somebody_elses_schema_is_not_called_old(database: Database) -> None:
    await stamp(database, "a1b2c3d4")
    with pytest.raises(ConfigurationError, match="not of meeting-push"):
        await database.migrate()


async def test_e10_no_way_back_to_what_never_was(database: Database) -> None:
    with pytest.raises(ConfigurationError):
        await database.downgrade("0099")


async def test_e10_the_command_line_goes_back(database: Database, database_url: str) -> None:
    arguments = ["db", "downgrade", "0007", "--database-url", database_url]
    done = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert done.exit_code == 0, done.output
    assert await database.needs_migration()


async def test_e10_doctor_does_not_call_a_newer_database_older(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    await stamp(database, f"{int(HEAD) + 2:04d}")
    finding = await doctor._database(Settings(database_url=database_url, data_dir=tmp_path))
    assert not finding.ok
    assert "newer" in finding.text
