"""0.1 建的库照旧打开，一条不少；改名只由 ``meeting-push db rename``。"""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from meeting_push.cli import app
from meeting_push.errors import ConfigurationError
from meeting_push.model import Outgoing
from meeting_push.storage.database import Database
from meeting_push.storage.fleet import NodeRepository, NodeRow
from meeting_push.storage.inbox import InboxRepository
from meeting_push.storage.messages import MessageRepository
from meeting_push.storage.migration import HEAD
from meeting_push.storage.naming import BARE, Naming, Wanted
from tests.unit.storage.test_naming import a_message, names_in, run, use

OF_0_1 = "0007"


@pytest.fixture
async def made_by_0_1(empty_database_url: str) -> str:
    """0.1 的表结构（那时的迁移到 0007），里面一条消息。"""
    database = Database(empty_database_url, wanted=Wanted(""))
    await database.migrate()
    await MessageRepository(database).store([Outgoing(a_message(), (2, 3))])
    await database.downgrade(OF_0_1)
    await database.dispose()
    return empty_database_url


async def inbox_of(database: Database, user_id: int) -> list[str]:
    page = await InboxRepository(database).page(user_id)
    return [one.message.message_id for one in page.items]


@pytest.mark.parametrize("wanted", [Wanted(), Wanted("")], ids=["unsaid", "said"])
async def test_a_database_made_by_0_1_opens_with_every_message(
    made_by_0_1: str, wanted: Wanted, log: list[str]
) -> None:
    database = Database(made_by_0_1, wanted=wanted)
    await database.migrate()
    assert database.naming == BARE
    assert await database.schema_version() == HEAD
    assert await inbox_of(database, 2) == [a_message().message_id]
    assert {name for name in await names_in(database) if name.startswith("mp_")} == set()
    assert [line for line in log if line.startswith("tables_have_no_prefix")]
    await database.dispose()


@pytest.mark.parametrize("prefix", ["mp_", "chat_"])
async def test_another_prefix_over_0_1_names_the_command_that_renames(
    made_by_0_1: str, prefix: str
) -> None:
    database = Database(made_by_0_1, wanted=Wanted(prefix))
    before = await names_in(database)
    with pytest.raises(ConfigurationError, match="meeting-push db rename"):
        await database.migrate()
    assert await names_in(database) == before
    await database.dispose()


async def test_tables_like_those_of_0_1_with_other_columns_are_not_of_0_1(
    empty_database_url: str,
) -> None:
    await run(
        empty_database_url,
        "CREATE TABLE message_recipients (message_id VARCHAR(26), user_id BIGINT)",
        "CREATE TABLE delivery_generation (id INTEGER)",
        "CREATE TABLE broadcast_receipts (message_id VARCHAR(26))",
    )
    database = Database(empty_database_url)
    await database.migrate()
    assert database.naming == Naming()
    await database.dispose()


@pytest.mark.parametrize("wanted", [Wanted(), Wanted("chat_"), Wanted("chat_", "push")])
async def test_rename_takes_everything_along(made_by_0_1: str, wanted: Wanted) -> None:
    """表、索引、约束、序列都改了名，消息还在，此后就是那些名字。"""
    if wanted.schema is not None and made_by_0_1.startswith("sqlite"):
        pytest.skip("SQLite has no schemas")
    database = Database(made_by_0_1, wanted=wanted)
    await database.rename("", None)
    naming = wanted.naming()
    ours = await names_in(database, wanted.schema)
    assert {name for name in ours if not name.startswith(naming.prefix)} == set()
    await database.migrate()
    assert database.naming == naming
    assert await inbox_of(database, 2) == [a_message().message_id]
    fresh = await names_of_a_fresh_one(database, wanted)
    assert await names_in(database, wanted.schema) == fresh
    await database.dispose()


async def names_of_a_fresh_one(database: Database, wanted: Wanted) -> set[str]:
    """同样的名字，从头建的。"""
    await database.downgrade("base")
    await database.migrate()
    return await names_in(database, wanted.schema)


async def test_rename_from_one_prefix_to_another_and_use_it(empty_database_url: str) -> None:
    old = Database(empty_database_url)
    await old.migrate()
    await use(old)
    new = Database(empty_database_url, wanted=Wanted("chat_"))
    await new.rename("mp_", None)
    await new.migrate()
    assert await inbox_of(new, 2) == [a_message().message_id]
    assert {name for name in await names_in(new) if name.startswith("mp_")} == set()
    await old.dispose()
    await new.dispose()


async def test_rename_refuses_what_is_taken_and_changes_nothing(made_by_0_1: str) -> None:
    await run(made_by_0_1, "CREATE TABLE mp_users (id INTEGER)")
    database = Database(made_by_0_1)
    before = await names_in(database)
    with pytest.raises(ConfigurationError, match="already"):
        await database.rename("", None)
    assert await names_in(database) == before
    await database.dispose()


async def test_rename_refuses_while_a_node_is_alive(database: Database, database_url: str) -> None:
    await NodeRepository(database).beat(NodeRow("n1", "all", "1", True, True, "", 1))
    other = Database(database_url, wanted=Wanted("chat_"))
    with pytest.raises(ConfigurationError, match="n1 is running"):
        await other.rename("mp_", None)
    await other.dispose()


async def test_rename_has_nothing_to_do_in_an_empty_database(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    with pytest.raises(ConfigurationError, match="nothing to rename"):
        await database.rename("", None)
    await database.dispose()


# ── 命令 ─────────────────────────────────────────────────────────────────────


async def say(*arguments: str) -> tuple[int, str]:
    done = await asyncio.to_thread(CliRunner().invoke, app, ["db", *arguments])
    if isinstance(done.exception, ConfigurationError):
        return 2, done.exception.message
    return done.exit_code, done.output


async def test_the_commands_of_the_database(made_by_0_1: str) -> None:
    at = ("--database-url", made_by_0_1)
    assert await say("current", *at) == (0, f"{OF_0_1}, tables *\n")
    code, sql = await say("sql", *at)
    assert code == 0
    assert "CREATE TABLE nodes" in sql
    assert "CREATE TABLE users" not in sql
    assert await say("rename", *at) == (0, f"{OF_0_1}, tables mp_*\n")
    assert await say("upgrade", *at) == (0, f"{HEAD} (newest), tables mp_*\n")
    assert await say("sql", *at) == (0, "")


@pytest.mark.parametrize("wanted", [Wanted(), Wanted("x_"), Wanted("x_", "own")])
async def test_the_printed_sql_makes_the_same_database(
    empty_database_url: str, wanted: Wanted
) -> None:
    if wanted.schema is not None and empty_database_url.startswith("sqlite"):
        pytest.skip("SQLite has no schemas")
    database = Database(empty_database_url, wanted=wanted)
    script = await database.upgrade_script("base")
    if wanted.schema is not None:
        await run(empty_database_url, f"CREATE SCHEMA {wanted.schema}")
    await execute(database, script)
    assert not await database.needs_migration()
    made = await names_in(database, wanted.schema)
    assert await names_of_a_fresh_one(database, wanted) == made
    await database.dispose()


async def execute(database: Database, script: str) -> None:
    lines = (line for line in script.splitlines() if not line.startswith("--"))
    for statement in "\n".join(lines).split(";\n"):
        if statement.strip() not in ("", "BEGIN", "COMMIT"):
            async with database.connect() as connection:
                await connection.execute(text(statement))
