"""在线状态测试的夹具：各自的前缀，Redis 7 与内嵌的 Valkey 各一遍。"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from meeting_push.redis.redis_service import RedisService
from tests.support.redis_server import RedisServer

from .nodes import redis_of


@pytest.fixture
async def redis(redis_server: RedisServer, key_prefix: str) -> AsyncIterator[RedisService]:
    async with redis_of(redis_server, key_prefix) as service:
        yield service
