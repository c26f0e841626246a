"""没有服务器的 profile 用的：一个真的 Redis 子进程（AOF everysec，与内嵌运行时相同）。"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.embedded import EmbeddedRedis
from meeting_push.redis.keys import Keys
from meeting_push.redis.redis_service import RedisService


@contextlib.asynccontextmanager
async def redis_child() -> AsyncIterator[RedisService]:
    """离开时结束它并删掉它的目录。"""
    with tempfile.TemporaryDirectory(prefix="mp-bench-") as name:
        server = EmbeddedRedis(Path(name))
        await server.start()
        try:
            service = RedisService(RedisAddress.parse(server.url), Keys())
            await service.start()
            try:
                yield service
            finally:
                await service.close()
        finally:
            await server.stop()


async def redis_cpu_s(redis: RedisService) -> float:
    info = await redis.client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


async def redis_memory(redis: RedisService) -> int:
    """``used_memory``：分配出去的字节，不含碎片。"""
    info = await redis.client.info("memory")
    return int(info["used_memory"])


async def redis_version(redis: RedisService) -> str:
    info = await redis.client.info("server")
    return str(info["redis_version"])
