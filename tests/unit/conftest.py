"""一个进程里的部件，接在真实的 Redis 与 SQL 上。"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
from loguru import logger

from meeting_push.storage.database import Database
from tests.support.parts import Parts
from tests.support.redis_server import RedisServer, redis_of

if TYPE_CHECKING:
    from loguru import Message


@pytest.fixture(params=["sqlite", "postgres"])
def engines(request: pytest.FixtureRequest) -> tuple[RedisServer, str]:
    """SQLite 配内嵌的 Valkey，PostgreSQL 配 Redis 7。"""
    redis = "embedded_redis_server" if request.param == "sqlite" else "redis7_server"
    return request.getfixturevalue(redis), request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
async def parts(engines: tuple[RedisServer, str], key_prefix: str) -> AsyncIterator[Parts]:
    server, url = engines
    database = Database(url)
    async with redis_of(server, key_prefix) as redis:
        yield Parts(redis, database)
    await database.dispose()


@pytest.fixture
def log() -> Iterator[list[str]]:
    """每条日志：事件名与字段。"""
    lines: list[str] = []

    def note(message: Message) -> None:
        fields = dict(message.record["extra"])
        lines.append(f"{fields.pop('event', message.record['message'])} {fields}")

    sink = logger.add(note)
    yield lines
    logger.remove(sink)
