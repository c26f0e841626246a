from __future__ import annotations

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support.postgres_server import PostgresServer, find_postgres


async def test_each_test_gets_an_empty_database(empty_database_url: str) -> None:
    engine = create_async_engine(empty_database_url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE only_here (id integer)"))
    await engine.dispose()


async def test_a_database_with_open_connections_can_be_dropped(
    postgres_server: PostgresServer,
) -> None:
    url = postgres_server.create_database()
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        postgres_server.drop_database(url)
        await connection.invalidate()
    await engine.dispose()


async def changed(url: str, *statements: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()


@pytest.fixture
async def template(postgres_server: PostgresServer) -> str:
    url = postgres_server.create_database()
    seeded = "CREATE TABLE seeded AS SELECT 1 AS n"
    await changed(url, seeded, "CREATE TABLE rows (id serial PRIMARY KEY, n integer)")
    return url


async def test_a_lent_database_comes_back_as_new(
    postgres_server: PostgresServer, template: str
) -> None:
    url = postgres_server.lend(template)
    engine = create_async_engine(url)
    async with engine.connect() as left_open:
        insert = text("INSERT INTO rows (n) VALUES (7) RETURNING id")
        first = await left_open.scalar(insert)
        await left_open.commit()
        postgres_server.take_back(url, template)
        await left_open.invalidate()
    again = postgres_server.lend(template)
    async with engine.begin() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM rows")) == 0
        assert (await connection.scalar(insert), again) == (first, url)
    await engine.dispose()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE more (id integer)",
        "ALTER TABLE rows ADD COLUMN more integer",
        "ALTER TABLE rows DROP CONSTRAINT rows_pkey",
        "CREATE INDEX ON rows (n)",
        "CREATE SCHEMA elsewhere",
        "UPDATE seeded SET n = 2",
        "DROP TABLE seeded",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET jit = off', current_database()); END $$",
    ],
)
async def test_a_database_that_can_not_be_made_as_new_is_not_lent_again(
    postgres_server: PostgresServer, template: str, statement: str
) -> None:
    url = postgres_server.lend(template)
    await changed(url, statement)
    postgres_server.take_back(url, template)
    assert postgres_server.lend(template) != url


async def test_what_the_planner_learned_is_not_lent_again(
    postgres_server: PostgresServer, template: str
) -> None:
    url = postgres_server.lend(template)
    await changed(url, "INSERT INTO rows (n) VALUES (1), (2)", "ANALYZE rows")
    postgres_server.take_back(url, template)
    assert postgres_server.lend(template) != url


def test_stop_leaves_no_process_and_no_file(postgres_server: PostgresServer) -> None:
    bin_dir = find_postgres()
    assert bin_dir is not None
    server = PostgresServer(bin_dir).start()
    processes = [(root := psutil.Process(server.pid)), *root.children(recursive=True)]
    server.stop()
    assert not any(process.is_running() for process in processes)
    assert not server.directory.exists()
