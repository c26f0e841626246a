"""E5：一个 Redis 只服务一个数据库。"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from redis import Redis

from tests.support.eventually import wait_until
from tests.support.people import device, register, send
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

from .fleet import Fleet, becomes

QUICK = {"node_lease_s": 1, "reconcile_interval_s": 0.2}


def generation(redis: RedisServer) -> int:
    with Redis(port=redis.port) as client:
        return int(client.hget("delivery_generation", "generation") or 0)


def of(directory: Path, redis: RedisServer, **settings: object) -> ServerProcess:
    """一个自己有 SQLite 的服务器，用 ``redis``。"""
    directory.mkdir(exist_ok=True)
    return ServerProcess(directory, redis_url=redis.url, settings=QUICK | settings)


@pytest.mark.timeout(300)
def test_a_stranger_is_not_let_in_while_the_first_is_alive(
    tmp_path: Path, private_redis_server: RedisServer
) -> None:
    """E5：忘了给 --database-url 的一个节点：它放弃时说得出原因；别的什么也没有发生。

    先来的租期长：机器再忙，它也不会因为没有及时续租就算死了。陌生的那个第一次尝试就可能比它的耐心
    长，那就没有等待的那一行日志（下一个测试看它），只有退出时的话。
    """
    with of(tmp_path / "first", private_redis_server, node_lease_s=30) as first:
        before = wait_until(lambda: generation(private_redis_server), 60)
        stranger = of(tmp_path / "stranger", private_redis_server, start_patience_s=4)
        stranger.launch()
        try:
            wait_until(lambda: "meeting-push: this Redis serves another" in stranger.output, 90)
            assert "Traceback" not in stranger.output
        finally:
            stranger.stop()
        assert generation(private_redis_server) == before
        becomes(first, 200, within=60)
        assert "another_database" not in first.output


async def test_when_nobody_of_the_first_is_left_the_next_takes_over(
    tmp_path: Path, private_redis_server: RedisServer
) -> None:
    """E5：换新的一代；先前那个数据库里 1 号的消息，不给这个数据库里的 1 号。"""
    with of(tmp_path / "first", private_redis_server) as first:
        alice = await register(first.base_url, "alice")
        await send(first.base_url, alice, [alice], title="of the first database")
        with Redis(port=private_redis_server.port) as client:
            wait_until(lambda: client.exists("offline_messages:{1}"), 10)
        first.kill()
        before = generation(private_redis_server)
        with of(tmp_path / "second", private_redis_server) as second:
            assert generation(private_redis_server) > before
            anna = await register(second.base_url, "anna")
            assert anna.user_id == alice.user_id
            async with device(second.ws_url(anna.user_id), anna) as phone:
                mine = await send(second.base_url, anna, [anna], title="of the second")
                assert (await phone.next_message())["message_id"] == mine
            first.launch()
            wait_until(lambda: "cause=another_database" in first.output, 20)


async def test_what_the_first_has_not_delivered_comes_when_it_is_back(
    tmp_path: Path, private_redis_server: RedisServer
) -> None:
    """E5、DLV-1：记录还在：轮到它时，没送达的照样送到。"""
    with of(tmp_path / "first", private_redis_server) as first:
        alice = await register(first.base_url, "alice")
        message_id = await send(first.base_url, alice, [alice])
        with Redis(port=private_redis_server.port) as client:
            wait_until(lambda: client.exists("offline_messages:{1}"), 10)
        first.terminate()
        with of(tmp_path / "second", private_redis_server) as second:
            second.terminate()
        first.start()
        async with device(first.ws_url(alice.user_id), alice) as phone:
            assert (await phone.next_message(20))["message_id"] == message_id


async def test_who_was_displaced_leaves(tmp_path: Path, private_redis_server: RedisServer) -> None:
    """E5：停了比租期还久，期间被接手：醒来就走，不再碰它。"""
    with of(tmp_path / "first", private_redis_server) as first:
        with Redis(port=private_redis_server.port) as client:
            client.hset("database_claim", mapping={"database": "other", "someone": 2**53})
            held = [name for name in client.hkeys("database_claim") if len(name) == 26]
            client.hdel("database_claim", *held)
        start = time.monotonic()
        wait_until(lambda: "meeting-push: this Redis serves another" in first.output, 30)
        assert time.monotonic() - start < 30


def test_a_ready_fleet_says_nothing_of_it(fleet: Fleet) -> None:
    """E5"""
    becomes(fleet.api.server, 200)
    assert "another_database" not in fleet.api.server.output
