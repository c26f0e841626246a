"""应用自己的 Alembic 与我们在同一个库里：谁也看不见谁，谁也不动谁。"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import BigInteger, Column, Connection, MetaData, String, Table, inspect
from sqlalchemy.ext.asyncio import create_async_engine

from meeting_push.storage.database import Database
from meeting_push.storage.engine import async_url
from meeting_push.storage.migration import HEAD
from tests.support.citations import DOCS
from tests.unit.storage.test_naming import names_in, use

THEIRS = MetaData()
Table("users", THEIRS, Column("id", BigInteger, primary_key=True), Column("email", String(80)))
Table("messages", THEIRS, Column("id", BigInteger, primary_key=True), Column("body", String(80)))
Table("meetings", THEIRS, Column("id", BigInteger, primary_key=True), Column("room", String(80)))

ENV = """
from alembic import context
from tests.unit.storage.test_alembic_of_the_application import THEIRS, recipe

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=THEIRS,
    include_object=recipe(),
)
with context.begin_transaction():
    context.run_migrations()
"""
FIRST = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None

def upgrade():
    for name, column in (("users", "email"), ("messages", "body"), ("meetings", "room")):
        op.create_table(
            name,
            sa.Column("id", sa.BigInteger, primary_key=True),
            sa.Column(column, sa.String(80)),
        )

def downgrade():
    op.drop_table("meetings")
    op.drop_table("messages")
    op.drop_table("users")
"""
SECOND = """
import meeting_push
from alembic import op

revision, down_revision = "0002", "0001"

def upgrade():
    meeting_push.upgrade_tables(op.get_bind())
    op.execute("INSERT INTO users VALUES (1, 'a@example')")  # 我们用过之后，它的 op 还是它的

def downgrade():
    op.execute("DELETE FROM users")
"""


def recipe() -> object:
    """``docs/operations.md`` 里的 ``include_object``，一字不差。"""
    page = (DOCS / "operations.md").read_text()
    found = re.search(r"^  def include_object.+?(?=\n\n)", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    names: dict[str, object] = {}
    exec("\n".join(line[2:] for line in found[0].splitlines()), names)
    return names["include_object"]


@pytest.fixture
def alembic_of(tmp_path: Path) -> Config:
    (tmp_path / "theirs" / "versions").mkdir(parents=True)
    for name, source in (("env.py", ENV), ("versions/a.py", FIRST), ("versions/b.py", SECOND)):
        (tmp_path / "theirs" / name).write_text(source)
    config = Config()
    config.set_main_option("script_location", str(tmp_path / "theirs"))
    return config


async def move(url: str, config: Config, to: str) -> None:
    engine = create_async_engine(async_url(url))

    def run(connection: Connection) -> None:
        config.attributes["connection"] = connection
        (command.downgrade if to == "base" else command.upgrade)(config, to)

    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()


async def differences(database: Database, given: object = None) -> list[object]:
    def compare(connection: Connection) -> list[object]:
        options = {} if given is None else {"include_object": given}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), THEIRS))

    async with database.connect() as connection:
        return await connection.run_sync(compare)


async def test_it_migrates_up_and_down_beside_us(
    empty_database_url: str, alembic_of: Config
) -> None:
    """它的版本也叫 0001、0002；我们由它的一份迁移建起来，它退回到头也不动我们。"""
    await move(empty_database_url, alembic_of, "head")
    database = Database(empty_database_url)
    assert await database.schema_version() == HEAD
    await use(database)
    ours = {name for name in await names_in(database) if name.startswith("mp_")}
    await move(empty_database_url, alembic_of, "base")
    assert await names_in(database) - {"alembic_version", "alembic_version_pkc"} == ours
    await database.dispose()


async def test_we_migrate_up_and_down_beside_it(
    empty_database_url: str, alembic_of: Config
) -> None:
    database = Database(empty_database_url)
    await move(empty_database_url, alembic_of, "0001")
    theirs = await names_in(database)
    await database.migrate()
    await database.downgrade("base")
    left = await names_in(database) - theirs
    assert {name for name in left if "mp_alembic_version" not in name} == set()
    await move(empty_database_url, alembic_of, "head")
    await database.dispose()


async def test_its_autogenerate_does_not_see_our_tables(
    database_url: str, alembic_of: Config
) -> None:
    database = Database(database_url)
    await move(database_url, alembic_of, "0001")
    assert await differences(database, recipe()) == []
    assert await differences(database) != []  # 没有那几行，它要删掉我们的
    async with database.connect() as connection:
        assert await connection.run_sync(lambda c: inspect(c).has_table("mp_users"))
    await database.dispose()
