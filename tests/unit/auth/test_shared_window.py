"""登录失败由所有进程合计；Redis 不在就各数各的。"""

from __future__ import annotations

import asyncio

import pytest

from meeting_push.auth.accounts import SharedWindow
from meeting_push.errors import RateLimitedError
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.redis_service import RedisService
from tests.support.redis_server import RedisServer

WINDOW_MS = 300_000


def window(redis: RedisService | None, limit: int = 3) -> SharedWindow:
    """一个进程里的。"""
    return SharedWindow("login", limit, WINDOW_MS, redis)


async def test_all_processes_count_together(redis: RedisService) -> None:
    for _ in range(3):
        await window(redis).reserve("alice")
    with pytest.raises(RateLimitedError) as refused:
        await window(redis).reserve("alice")
    assert 0 < refused.value.retry_after_s <= 300
    with pytest.raises(RateLimitedError):
        await window(redis).check("alice")
    await window(redis).reserve("bob")


async def test_concurrent_reservations_do_not_slip_past_the_limit(redis: RedisService) -> None:
    results = await asyncio.gather(
        *(window(redis).reserve("alice") for _ in range(9)), return_exceptions=True
    )
    assert sum(result is None for result in results) == 3


async def test_forgetting_starts_again(redis: RedisService) -> None:
    one = window(redis)
    for _ in range(3):
        await one.reserve("alice")
    await one.forget("alice")
    await one.reserve("alice")


async def test_every_counter_expires_even_if_its_process_died_halfway(redis: RedisService) -> None:
    await window(redis).count("alice")
    (key,) = [key async for key in redis.client.scan_iter(f"{redis.keys.prefix}*")]
    assert 0 < await redis.client.pttl(key) <= WINDOW_MS
    await redis.client.persist(key)
    await window(redis).count("alice")
    assert 0 < await redis.client.pttl(key) <= WINDOW_MS


async def test_names_and_addresses_are_not_in_redis(redis: RedisService) -> None:
    await window(redis).count("alice|192.0.2.1")
    (key,) = [key async for key in redis.client.scan_iter(f"{redis.keys.prefix}*")]
    assert "alice" not in str(key)


async def test_without_redis_each_process_counts_alone(
    private_redis_server: RedisServer, key_prefix: str
) -> None:
    redis = RedisService(RedisAddress.parse(private_redis_server.url), Keys(key_prefix))
    await redis.start()
    private_redis_server.kill()
    for lonely in (window(redis), window(None)):
        for _ in range(3):
            await lonely.reserve("alice")
        with pytest.raises(RateLimitedError):
            await lonely.reserve("alice")
    await redis.close()
