"""份额的测试共用的。"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.redis_service import RedisService
from tests.support.redis_server import RedisServer


@pytest.fixture
async def redis(redis7_server: RedisServer, key_prefix: str) -> AsyncIterator[RedisService]:
    service = RedisService(RedisAddress.parse(redis7_server.url), Keys(key_prefix))
    await service.start()
    yield service
    await service.close()
