"""基本的套件在每一种 Redis 上各跑一遍；哪些房间：导入它的 ``conftest.py``。

一台的与 Cluster 的各有 Redis 7 与 Valkey；Sentinel 后面的就是一台，只用 Redis 7。
表见 ``docs/operations.md``。
"""

from __future__ import annotations

from typing import Final

import pytest

from .redis_server import RedisServer

#: 各是一个夹具 ``<名字>_server``。``one_slot``：一次调用只许碰一个槽，没有声明的键也算。
ENGINES: Final = [
    *("redis7", "embedded_redis", "sentinel"),
    *("cluster", "embedded_cluster", "one_slot"),
]


@pytest.fixture(scope="session", params=ENGINES)
def redis_server(request: pytest.FixtureRequest) -> RedisServer:
    """单独的、Sentinel 看着的一主一副本、三个主的 Cluster。"""
    server: RedisServer = request.getfixturevalue(f"{request.param}_server")
    return server


#: 数据库-Redis。
_PAIRS: Final = [
    *("sqlite-embedded_redis", "postgres-redis7"),
    *("sqlite-sentinel", "sqlite-cluster"),
]


@pytest.fixture(params=_PAIRS)
def engines(request: pytest.FixtureRequest) -> tuple[RedisServer, str]:
    """一台的 Redis 7 配 PostgreSQL，其余配 SQLite。"""
    database, redis = request.param.split("-")
    return request.getfixturevalue(f"{redis}_server"), request.getfixturevalue(f"{database}_url")
