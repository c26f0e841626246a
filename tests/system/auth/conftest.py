"""两个节点、一个 Redis、一个数据库；SQLite 配内嵌的 Valkey，PostgreSQL 配 Redis 7。"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from meeting_push.settings import Settings, load_settings
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer
from tests.support.server_process import TEST_JWT_SECRET, ServerProcess

from .visitors import Lines


@dataclass(frozen=True)
class House:
    """``near`` 与 ``far`` 是同一套系统的两个节点；``settings`` 让测试进程也成为其中一员。"""

    near: ServerProcess
    far: ServerProcess
    settings: Settings
    redis: RedisServer


@pytest.fixture(scope="package", params=["sqlite", "postgres"])
def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    sqlite = request.param == "sqlite"
    redis: RedisServer = request.getfixturevalue(
        "embedded_redis_server" if sqlite else "redis7_server"
    )
    directory = tmp_path_factory.mktemp(f"auth-{request.param}")
    database_url = f"sqlite:///{directory}/shared.db"
    if not sqlite:
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        database_url = postgres.create_database()
    prefix = f"{directory.name}:"
    nodes = [
        ServerProcess(
            directory,
            redis_url=redis.url,
            database_url=database_url,
            settings={"key_prefix": prefix},
        )
        for _ in range(2)
    ]
    settings = load_settings(
        redis_url=redis.url,
        database_url=database_url,
        key_prefix=prefix,
        jwt_secret=TEST_JWT_SECRET,
    )
    with nodes[0], nodes[1]:
        yield House(nodes[0], nodes[1], settings, redis)


@pytest.fixture
async def lines() -> AsyncIterator[Lines]:
    async with Lines() as opened:
        yield opened
