"""旁观者的两条通道：不经过链路直接连 Redis 与数据库，随运行开合。"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.lean import LeanConnection
from meeting_push.storage.database import Database

from .sql import Sql
from .stored import Stored
from .town import Ground


@dataclass(frozen=True, slots=True)
class Reading:
    sql: Sql
    stored: Stored


@contextlib.asynccontextmanager
async def open_reading(ground: Ground) -> AsyncIterator[Reading]:
    """Redis 重启时自己重连；期间的读取得到 ``RedisUnavailableError``。"""
    lean = LeanConnection(RedisAddress.parse(ground.redis_url), name="chaos-observer")
    database = Database(ground.sql_url)
    await lean.connect()
    try:
        yield Reading(Sql(database), Stored(lean))
    finally:
        await lean.close()
        await database.dispose()
