"""两个服务器、一个 Redis、一个数据库；SQLite 配内嵌的 Valkey，PostgreSQL 配 Redis 7。"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.people import Person, register
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

#: 等得起的时限都缩短；上限放宽到测试碰不着（碰它们的测试自己起服务器）。
QUICK = {
    "meeting_refresh_s": 0.5,
    "meeting_leave_grace_s": 0.2,
    "meeting_frames_per_s": 10_000,
    "meeting_bytes_per_s": 10_000_000,
    "relay_interval_s": 0.2,
    "relay_grace_s": 0.5,
}


@dataclass(frozen=True)
class House:
    """``near`` 与 ``far`` 是同一套系统的两个节点。"""

    near: ServerProcess
    far: ServerProcess


@pytest.fixture(scope="package", params=["sqlite", "postgres"])
def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    sqlite = request.param == "sqlite"
    redis: RedisServer = request.getfixturevalue(
        "embedded_redis_server" if sqlite else "redis7_server"
    )
    database_url = None
    if not sqlite:
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        database_url = postgres.create_database()
    directory = tmp_path_factory.mktemp(f"house-{request.param}")
    settings = {**QUICK, "key_prefix": f"{directory.name}:"}
    nodes = [
        ServerProcess(directory, redis_url=redis.url, database_url=database_url, settings=settings)
        for _ in range(2)
    ]
    with nodes[0], nodes[1]:
        yield House(*nodes)


@pytest.fixture
async def alice(house: House) -> Person:
    return await register(house.near.base_url, "alice")


@pytest.fixture
async def bob(house: House) -> Person:
    return await register(house.near.base_url, "bob")


@pytest.fixture
async def carol(house: House) -> Person:
    """从不受邀。"""
    return await register(house.near.base_url, "carol")
