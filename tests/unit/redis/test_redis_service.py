"""RedisService：redis-py 一侧的值、统计与错误。"""

from __future__ import annotations

import asyncio
import gc

import pytest

from meeting_push.errors import RedisCommandError, RedisUnavailableError
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.redis_service import RedisInfo, RedisService, courtesy
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer


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
        await service.client.get("k")
    await service.close()


async def test_the_pool_survives_a_restart(
    private_redis_server: RedisServer, key_prefix: str
) -> None:
    address = RedisAddress.parse(private_redis_server.url)
    service = RedisService(address, Keys(key_prefix))
    await service.start()
    await service.client.set("k", 1)
    private_redis_server.restart()
    assert await service.client.get("k") == b"1"
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


async def test_what_redis_says_of_its_replicas(redis: RedisService) -> None:
    said = await redis.client.info()
    master = {
        **said,
        "role": "master",
        "master_repl_offset": 1_000,
        "connected_slaves": 2,
        "slave0": {"ip": "a", "offset": 990},
        "slave1": {"ip": "b", "offset": 400},
    }
    info = RedisInfo.of(master)
    assert (info.is_master, info.connected_replicas, info.replication_lag_bytes) == (True, 2, 600)
    replica = RedisInfo.of({**said, "role": "slave", "master_link_status": "down"})
    assert (replica.is_master, replica.master_link_up) == (False, False)
    broken = RedisInfo.of({**said, "aof_last_write_status": "err", "rdb_last_bgsave_status": "err"})
    assert (broken.aof_last_write_ok, broken.rdb_last_save_ok) == (False, False)


async def test_each_command_sent_is_counted(redis: RedisService, key_prefix: str) -> None:
    before = redis.commands
    await redis.put(f"{key_prefix}k", b"v", 1_000)
    await redis.counted(f"{key_prefix}c")
    assert redis.commands - before == 3


async def test_of_messages_published_together_no_error_is_left_unseen(
    private_redis_server: RedisServer, key_prefix: str
) -> None:
    """挂着的 Redis 没有了：几条都不成，说第一条的；回收时谁也不说“没有人看过”。"""
    unseen: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: unseen.append(told["message"]))
    service = RedisService(RedisAddress.parse(private_redis_server.url), Keys(key_prefix))
    await service.start()
    private_redis_server.pause()
    sending = asyncio.create_task(service.publish_all([("a", b"1"), ("b", b"2"), ("c", b"3")]))
    await asyncio.sleep(0)
    private_redis_server.kill()
    with pytest.raises(RedisUnavailableError):
        await sending
    del sending
    await service.close()
    gc.collect()
    assert unseen == []
