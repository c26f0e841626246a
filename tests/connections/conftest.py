"""连接数目、放行、离开、听力的测试：各自的键前缀，Redis 7 与内嵌的 Valkey 各一遍。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from meeting_push.redis.redis_service import RedisService
from tests.presence.nodes import redis_of
from tests.support.redis_server import RedisServer


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """与生产相同的循环。"""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def redis(redis_server: RedisServer, key_prefix: str) -> AsyncIterator[RedisService]:
    async with redis_of(redis_server, key_prefix) as service:
        yield service
