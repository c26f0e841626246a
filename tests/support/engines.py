"""基本的套件在每一种 Redis 上各跑一遍；哪些房间：导入它的 ``conftest.py``。"""

from __future__ import annotations

import pytest

from .redis_server import RedisServer


@pytest.fixture(scope="session", params=["redis7", "embedded_redis", "sentinel"])
def redis_server(request: pytest.FixtureRequest) -> RedisServer:
    """单独的 Redis 7、内嵌的 Valkey、Sentinel 看着的一主一副本。"""
    server: RedisServer = request.getfixturevalue(f"{request.param}_server")
    return server


ENGINES = ["redis7", "embedded_redis", "sentinel", "one_slot"]


@pytest.fixture(scope="session", name="redis_server", params=ENGINES)
def redis_server_or_slots(request: pytest.FixtureRequest) -> RedisServer:
    """再加上一次调用只许碰一个槽的（``one_slot``）。"""
    server: RedisServer = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture(scope="session", name="redis_server", params=[*ENGINES, "cluster"])
def redis_server_or_cluster(request: pytest.FixtureRequest) -> RedisServer:
    """再加上三个主的 Cluster。"""
    server: RedisServer = request.getfixturevalue(f"{request.param}_server")
    return server
