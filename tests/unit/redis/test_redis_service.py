"""RedisService：redis-py 一侧的值、统计与错误。"""

from __future__ import annotations

import asyncio

import pytest

from meeting_push.errors import MalformedEnvelopeError, RedisCommandError, RedisUnavailableError
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.redis_service import RedisService, courtesy
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer


async def test_json_comes_back_as_it_went_in(redis: RedisService, key_prefix: str) -> None:
    value = {"名字": ["a", 1, None, True]}
    await redis.set_json(f"{key_prefix}k", value)
    assert await redis.get_json(f"{key_prefix}k") == value


async def test_a_missing_key_is_none(redis: RedisService, key_prefix: str) -> None:
    assert await redis.get_json(f"{key_prefix}k") is None


async def test_a_ttl_is_kept(redis: RedisService, key_prefix: str) -> None:
    await redis.set_json(f"{key_prefix}k", 1, ttl_s=10)
    assert 9_000 < await redis.lean.execute("PTTL", f"{key_prefix}k") <= 10_000


async def test_what_is_not_json_is_malformed(redis: RedisService, key_prefix: str) -> None:
    await redis.lean.execute("SET", f"{key_prefix}k", "{")
    with pytest.raises(MalformedEnvelopeError):
        await redis.get_json(f"{key_prefix}k")


async def test_delete_says_how_many_there_were(redis: RedisService, key_prefix: str) -> None:
    await redis.set_json(f"{key_prefix}a", 1)
    assert await redis.delete(f"{key_prefix}a", f"{key_prefix}b") == 1
    assert await redis.delete() == 0


async def test_ping_info_and_pool_are_observable(
    redis: RedisService, redis_server: RedisServer
) -> None:
    await redis.ping()
    info = await redis.info()
    assert info.version == ".".join(map(str, redis_server.version))
    assert info.used_memory_bytes > 0
    assert info.connected_clients >= 2
    statistics = redis.pool_statistics()
    assert (statistics.in_use, statistics.idle) == (0, 1)


async def test_a_pipeline_raises_our_errors(redis: RedisService, key_prefix: str) -> None:
    async with redis.client.pipeline() as pipeline:
        pipeline.set(f"{key_prefix}k", "text")
        pipeline.lpush(f"{key_prefix}k", "x")
        with pytest.raises(RedisCommandError, match="WRONGTYPE"):
            await pipeline.execute()


async def test_an_absent_redis_is_unavailable(key_prefix: str) -> None:
    address = RedisAddress(host="127.0.0.1", port=free_port())
    service = RedisService(address, Keys(key_prefix), timeout_s=0.5)
    with pytest.raises(RedisUnavailableError):
        await service.start()
    with pytest.raises(RedisUnavailableError):
        await service.get_json("k")
    await service.close()


async def test_the_pool_survives_a_restart(
    private_redis_server: RedisServer, key_prefix: str
) -> None:
    address = RedisAddress.parse(private_redis_server.url)
    service = RedisService(address, Keys(key_prefix))
    await service.start()
    await service.set_json("k", 1)
    private_redis_server.restart()
    assert await service.get_json("k") == 1
    await service.close()


async def test_a_dedicated_connection_may_block_longer_than_the_timeout(
    redis_server: RedisServer, key_prefix: str
) -> None:
    service = RedisService(RedisAddress.parse(redis_server.url), Keys(key_prefix), timeout_s=0.1)
    await service.start()
    blocking = await service.open_lean("blocker", max_block_s=0.5)
    assert await blocking.execute("BLPOP", f"{key_prefix}list", "0.4") is None
    assert blocking.reconnects == 0
    await blocking.close()
    await service.close()


async def test_b5_a_courtesy_does_not_wait_for_a_hung_redis() -> None:
    """没有回答就当 Redis 不在：调用者只认得这一种错。"""
    with pytest.raises(RedisUnavailableError):
        await courtesy(asyncio.sleep(60))
