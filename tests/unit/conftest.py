"""一个进程里的部件，接在真实的 Redis 与 SQL 上。"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.redis_service import RedisService
from meeting_push.storage.database import Database
from tests.support.parts import Parts
from tests.support.redis_server import RedisServer


@pytest.fixture
async def redis(redis_server: RedisServer, key_prefix: str) -> AsyncIterator[RedisService]:
    """各自的键前缀；Redis 7 与内嵌的 Valkey 各一遍。"""
    service = RedisService(RedisAddress.parse(redis_server.url), Keys(key_prefix))
    await service.start()
    yield service
    await service.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """一个空库；SQLite 与 PostgreSQL 各一遍。"""
    database = Database(database_url)
    await database.migrate()
    yield database
    await database.dispose()


@pytest.fixture
async def parts(
    redis7_server: RedisServer, database: Database, key_prefix: str
) -> AsyncIterator[Parts]:
    redis = RedisService(RedisAddress.parse(redis7_server.url), Keys(key_prefix))
    await redis.start()
    yield Parts(redis, database)
    await redis.close()
