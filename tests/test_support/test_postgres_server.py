from __future__ import annotations

import psutil
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


def test_stop_leaves_no_process_and_no_file(postgres_server: PostgresServer) -> None:
    bin_dir = find_postgres()
    assert bin_dir is not None
    server = PostgresServer(bin_dir).start()
    processes = [(root := psutil.Process(server.pid)), *root.children(recursive=True)]
    server.stop()
    assert not any(process.is_running() for process in processes)
    assert not server.directory.exists()
