"""连接的路上没有 SQL（LESSONS 1）：数据库停着，信箱空的人照样连得上。"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.people import device
from tests.support.postgres_server import PostgresServer, find_postgres
from tests.support.redis_server import RedisServer
from tests.support.running_node import running_node


async def test_the_database_may_be_down(
    tmp_path: Path, redis7_server: RedisServer, key_prefix: str
) -> None:
    bin_dir = find_postgres()
    if bin_dir is None:
        pytest.skip("no PostgreSQL server on PATH or in /usr/lib/postgresql")
    postgres = PostgresServer(bin_dir).start()
    try:
        url = postgres.create_database()
        settings = {"database_url": url, "redis_timeout_s": 1}
        async with running_node(tmp_path, redis7_server.url, key_prefix, **settings) as node:
            postgres.stop()
            for user_id in (7, 8):
                async with device(node.ws_url(user_id), node.person(user_id)) as line:
                    assert line.welcome["pending"] == 0
            assert "database" in await node.failing()
    finally:
        postgres.stop()
