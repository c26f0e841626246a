"""第 14 号事：同一个库里，我们的表不与应用的相撞。"""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, inspect, text

from meeting_push.errors import ConfigurationError
from meeting_push.model import DeliveryStatus, Message, Outgoing, Sender
from meeting_push.storage.accounts import UserRepository
from meeting_push.storage.database import Database
from meeting_push.storage.inbox import InboxRepository
from meeting_push.storage.messages import MessageRepository
from meeting_push.storage.naming import Naming, Wanted
from meeting_push.storage.recipients import RecipientRepository

#: 应用的表：与我们从前的同名，列不同；版本的名字也像我们的。
OF_THE_APPLICATION = (
    "CREATE TABLE users (id INTEGER PRIMARY KEY, email VARCHAR(80))",
    "CREATE TABLE messages (id INTEGER PRIMARY KEY, body TEXT)",
    "CREATE TABLE meetings (id INTEGER PRIMARY KEY, place TEXT)",
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
    "CREATE INDEX ix_messages_outbox ON messages (body)",
    "INSERT INTO users VALUES (1, 'a@example')",
    "INSERT INTO messages VALUES (1, 'theirs')",
    "INSERT INTO meetings VALUES (1, 'here')",
)
NAMINGS = [
    pytest.param(Wanted(), id="default"),
    pytest.param(Wanted("chat_"), id="prefix"),
    pytest.param(Wanted("mp_alert_"), id="longer_prefix"),
    pytest.param(Wanted(schema="push"), id="schema"),
    pytest.param(Wanted("x_", "Own_Schema"), id="both"),
    pytest.param(Wanted("", "push"), id="schema_alone"),
]


@pytest.fixture
async def shared(empty_database_url: str) -> str:
    """应用先来的库。"""
    await run(empty_database_url, *OF_THE_APPLICATION)
    return empty_database_url


async def run(url: str, *statements: str) -> None:
    database = Database(url)
    async with database.transaction() as connection:
        for one in statements:
            await connection.execute(text(one))
    await database.dispose()


async def names_in(database: Database, schema: str | None = None) -> set[str]:
    """全部的表、索引、约束、序列。"""

    def look(connection: Connection) -> set[str]:
        if connection.dialect.name == "sqlite":
            found = connection.execute(text("SELECT name FROM sqlite_master"))
        else:
            found = connection.execute(
                text(
                    "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                    " WHERE nspname = :schema UNION SELECT conname FROM pg_constraint c"
                    " JOIN pg_namespace n ON n.oid = c.connamespace WHERE nspname = :schema"
                ),
                {"schema": schema or inspect(connection).default_schema_name},
            )
        return {name for (name,) in found if not name.startswith("sqlite_")}

    async with database.connect() as connection:
        return await connection.run_sync(look)


async def rows_of(database: Database, table: str) -> list[tuple[object, ...]]:
    async with database.connect() as connection:
        return [tuple(row) for row in await connection.execute(text(f"SELECT * FROM {table}"))]


def a_message(message_id: str = "01HZZZZZZZZZZZZZZZZZZZZZZZ") -> Message:
    return Message(
        message_id=message_id,
        message_type="message",
        priority=0,
        title="t",
        content="DROP mp_messages",
        sender=Sender(1, "one"),
        timestamp=1_000,
        expires_at=9_000_000_000_000,
    )


async def use(database: Database) -> None:
    """写、读、改，热路与不热的路。"""
    messages, inbox = MessageRepository(database), InboxRepository(database)
    message = a_message()
    await messages.store([Outgoing(message, (2, 3))])
    assert await messages.get(message.message_id) == message
    await messages.mark_enqueued([message.message_id], 2_000)
    await RecipientRepository(database).record_delivered([(message.message_id, 2, 1, 2)])
    assert [one.status for one in (await inbox.page(2)).items] == [DeliveryStatus.DELIVERED]
    assert await inbox.mark_read(3, [message.message_id]) == [message.message_id]
    user = await UserRepository(database).create("ann", "hash", "user", 1)
    assert (await UserRepository(database).by_name("Ann")) == user


def skip_schemas_of_sqlite(url: str, wanted: Wanted) -> None:
    if wanted.schema is not None and url.startswith("sqlite"):
        pytest.skip("SQLite has no schemas")


@pytest.mark.parametrize("wanted", NAMINGS)
async def test_beside_an_application_nothing_of_it_is_touched(shared: str, wanted: Wanted) -> None:
    """F2：它的 users、messages、meetings、alembic_version 还是它的，升上来、退回去都不碰。"""
    skip_schemas_of_sqlite(shared, wanted)
    await run(shared, "INSERT INTO alembic_version VALUES ('0012')")
    database = Database(shared, wanted=wanted)
    theirs = await names_in(database)
    await database.migrate()
    await use(database)
    assert not await database.needs_migration()
    await database.downgrade("base")
    assert await rows_of(database, "users") == [(1, "a@example")]
    assert await rows_of(database, "messages") == [(1, "theirs")]
    assert await rows_of(database, "meetings") == [(1, "here")]
    assert await rows_of(database, "alembic_version") == [("0012",)]
    left = {name for name in await names_in(database) - theirs if "alembic_version" not in name}
    assert left == set()
    await database.dispose()


@pytest.mark.parametrize("wanted", NAMINGS)
async def test_every_name_of_ours_carries_the_prefix_or_lives_in_the_schema(
    empty_database_url: str, wanted: Wanted
) -> None:
    skip_schemas_of_sqlite(empty_database_url, wanted)
    database = Database(empty_database_url, wanted=wanted)
    await database.migrate()
    naming = wanted.naming()
    ours = await names_in(database, wanted.schema)
    assert ours
    assert {name for name in ours if not name.startswith(naming.prefix)} == set()
    if wanted.schema is not None:
        assert await names_in(database) == set()
    await database.dispose()


async def test_two_prefixes_side_by_side(empty_database_url: str) -> None:
    one, two = (Database(empty_database_url, wanted=Wanted(p)) for p in ("mp_", "other_"))
    await one.migrate()
    await two.migrate()
    await use(one)
    assert (await InboxRepository(two).page(2)).items == []
    await use(two)
    await two.downgrade("base")
    assert len((await InboxRepository(one).page(2)).items) == 1
    await one.dispose()
    await two.dispose()


@pytest.mark.parametrize("version", ["a1b2c3d4", "0003", "0012", "0099"])
async def test_a_version_table_that_is_not_ours_is_never_taken_for_it(
    shared: str, version: str
) -> None:
    """F2：明说没有前缀，而版本表是别人的：一句话，什么也不碰。"""
    await run(shared, f"INSERT INTO alembic_version VALUES ('{version}')")
    database = Database(shared, wanted=Wanted(""))
    with pytest.raises(ConfigurationError, match="not of meeting-push"):
        await database.migrate()
    assert await rows_of(database, "alembic_version") == [(version,)]
    await database.dispose()


async def test_a_table_that_is_there_already_is_not_taken_for_ours(
    empty_database_url: str,
) -> None:
    await run(empty_database_url, "CREATE TABLE mp_users (id INTEGER)")
    database = Database(empty_database_url)
    with pytest.raises(ConfigurationError, match="mp_users is there already"):
        await database.migrate()
    await database.dispose()


@pytest.mark.parametrize("prefix", ["MP_", "a-b", "1a", "sqlite_x", "pg_", "x" * 25, "a b", "é_"])
def test_a_prefix_that_can_not_be_a_name_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="table_prefix"):
        Database("sqlite:///x.db", wanted=Wanted(prefix))


@pytest.mark.parametrize(
    ("url", "schema"),
    [("sqlite:///x.db", "push"), ("postgresql://h/d", "pg_own"), ("postgresql://h/d", 'a"b')],
)
def test_a_schema_that_can_not_be_is_refused(url: str, schema: str) -> None:
    with pytest.raises(ConfigurationError, match="database_schema"):
        Database(url, wanted=Wanted(schema=schema))


def test_only_names_are_replaced() -> None:
    naming = Naming("x_", "s")
    statement = (
        "UPDATE mp_messages SET a = 1 WHERE mp_messages.b IN (SELECT mp_messages_1.c"
        " FROM mp_messages AS mp_messages_1)"
    )
    assert naming.sql(statement) == (
        'UPDATE "s".x_messages SET a = 1 WHERE "s".x_messages.b IN (SELECT mp_messages_1.c'
        ' FROM "s".x_messages AS mp_messages_1)'
    )
    assert naming.sql(naming.sql(statement)) == naming.sql(statement)
    create = "CREATE INDEX CONCURRENTLY mp_ix_alerts_spot ON mp_alerts (spot_key)"
    assert (
        naming.sql(create)
        == 'CREATE INDEX CONCURRENTLY x_ix_alerts_spot ON "s".x_alerts (spot_key)'
    )
    drop = "DROP INDEX CONCURRENTLY IF EXISTS mp_ix_alerts_spot"
    assert naming.sql(drop) == 'DROP INDEX CONCURRENTLY IF EXISTS "s".x_ix_alerts_spot'
    rename = "ALTER INDEX mp_ix_alerts_spot_next RENAME TO mp_ix_alerts_spot"
    assert naming.sql(rename) == 'ALTER INDEX "s".x_ix_alerts_spot_next RENAME TO x_ix_alerts_spot'
