"""每个用户的设备数：所有节点合计，原子，死节点的不算。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from meeting_push.node_identity import NodeIdentity
from meeting_push.presence.seats import DeviceSeats, Replace
from meeting_push.redis.redis_service import RedisService
from meeting_push.redis.sharded_subscriber import subscriber_for
from meeting_push.settings import DevicePolicy, Settings
from meeting_push.supervision import Aside
from tests.support.eventually import eventually

USER = 7


def seats(redis: RedisService, node: str, limit: int, policy: DevicePolicy) -> DeviceSeats:
    settings = Settings(_env_file=None, max_devices_per_user=limit, device_policy=policy)
    return DeviceSeats(redis, NodeIdentity(node), settings.presence, aside=Aside("seats"))


async def lease(redis: RedisService, *nodes: str) -> None:
    for node in nodes:
        await redis.client.set(redis.keys.node(node), "1", px=30_000)


async def seated(redis: RedisService) -> list[str]:
    names = await redis.lean.execute("HKEYS", redis.keys.user_slots(USER))
    return sorted(name.decode() for name in names)


@contextlib.contextmanager
def running(*everyone: DeviceSeats) -> Iterator[None]:
    tasks = [asyncio.create_task(one.run()) for one in everyone]
    tasks += [asyncio.create_task(one.run_renewal()) for one in everyone]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


async def replaced_by(redis: RedisService, claim: Any) -> list[str]:
    """执行 ``claim``，返回随之在控制频道上点名的连接。"""
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    listener = subscriber_for(redis.lean, redis.keys)
    await listener.start(lambda _, payload: heard.put_nowait(payload), lambda: None)
    try:
        await listener.subscribe_channel(redis.keys.system_channel)
        assert await claim
        command = msgspec.json.decode(await heard.get(), type=Replace)
    finally:
        await listener.close()
    assert (command.type, command.user_id) == ("control", USER)
    return list(command.connection_ids)


async def test_the_limit_counts_all_nodes(redis: RedisService) -> None:
    await lease(redis, "a", "b")
    a, b = seats(redis, "a", 2, "reject"), seats(redis, "b", 2, "reject")
    assert await a.claim(USER, "a1", "phone")
    assert await b.claim(USER, "b1", "laptop")
    assert not await a.claim(USER, "a2", "tablet")
    assert a.refused == 1


async def test_users_do_not_share_seats(redis: RedisService) -> None:
    a = seats(redis, "a", 1, "reject")
    assert await a.claim(1, "c1", "phone")
    assert await a.claim(2, "c2", "phone")


async def test_concurrent_claims_never_pass_the_limit(redis: RedisService) -> None:
    await lease(redis, "a", "b")
    nodes = [seats(redis, node, 5, "reject") for node in ("a", "b")]
    claims = [nodes[n % 2].claim(USER, f"c{n}", f"d{n}") for n in range(50)]
    assert sum(await asyncio.gather(*claims)) == 5


async def test_claiming_twice_takes_one_seat(redis: RedisService) -> None:
    a = seats(redis, "a", 1, "reject")
    assert await a.claim(USER, "c1", "phone")
    assert await a.claim(USER, "c1", "phone")


async def test_a_released_seat_is_free(redis: RedisService) -> None:
    a = seats(redis, "a", 1, "reject")
    with running(a):
        assert await a.claim(USER, "c1", "phone")
        a.release(USER, "c1")

        async def again() -> bool:
            return await a.claim(USER, "c2", "phone")

        await eventually(again)


async def test_seats_of_a_dead_node_do_not_count(redis: RedisService) -> None:
    await lease(redis, "a", "b")
    a, b = seats(redis, "a", 1, "reject"), seats(redis, "b", 1, "reject")
    assert await a.claim(USER, "a1", "phone")
    assert not await b.claim(USER, "b1", "phone")
    await redis.client.delete(redis.keys.node("a"))
    assert await b.claim(USER, "b1", "phone")
    assert await seated(redis) == ["b1"]


async def test_evict_oldest_names_the_oldest(redis: RedisService) -> None:
    await lease(redis, "a", "b")
    a, b = seats(redis, "a", 2, "evict_oldest"), seats(redis, "b", 2, "evict_oldest")
    assert await a.claim(USER, "first", "phone")
    await asyncio.sleep(0.002)  # 座位的时刻以毫秒计
    assert await b.claim(USER, "second", "laptop")
    assert await replaced_by(redis, b.claim(USER, "third", "tablet")) == ["first"]
    assert await seated(redis) == ["second", "third"]


async def test_evict_oldest_takes_the_dead_first(redis: RedisService) -> None:
    await lease(redis, "b")
    a, b = seats(redis, "a", 2, "evict_oldest"), seats(redis, "b", 2, "evict_oldest")
    assert await b.claim(USER, "old", "phone")
    await asyncio.sleep(0.002)
    assert await a.claim(USER, "dead", "laptop")
    assert await b.claim(USER, "new", "tablet")
    assert await seated(redis) == ["new", "old"]


async def test_the_same_device_replaces_itself_long_before_the_limit(redis: RedisService) -> None:
    a = seats(redis, "a", 10, "replace_same_device")
    assert await a.claim(USER, "old", "phone:with:colons")
    assert await a.claim(USER, "other", "laptop")
    assert await replaced_by(redis, a.claim(USER, "new", "phone:with:colons")) == ["old"]
    assert await seated(redis) == ["new", "other"]


async def test_the_same_device_needs_no_free_seat(redis: RedisService) -> None:
    a = seats(redis, "a", 1, "replace_same_device")
    assert await a.claim(USER, "old", "phone")
    assert await a.claim(USER, "new", "phone")
    assert not await a.claim(USER, "third", "laptop")


@pytest.mark.parametrize("policy", ["reject", "evict_oldest"])
async def test_other_policies_let_one_device_connect_twice(
    redis: RedisService, policy: DevicePolicy
) -> None:
    a = seats(redis, "a", 2, policy)
    assert await a.claim(USER, "c1", "phone")
    assert await a.claim(USER, "c2", "phone")
    assert await seated(redis) == ["c1", "c2"]


async def test_lost_seats_are_written_again(redis: RedisService) -> None:
    a = seats(redis, "a", 2, "reject")
    with running(a):
        assert await a.claim(USER, "c1", "phone")
        await redis.client.delete(redis.keys.user_slots(USER))
        a.resync()

        async def back() -> bool:
            return await seated(redis) == ["c1"]

        await eventually(back)


async def test_leaving_writes_what_was_released(redis: RedisService) -> None:
    a = seats(redis, "a", 2, "reject")
    assert await a.claim(USER, "c1", "phone")
    a.release(USER, "c1")
    await a.drain()
    assert await seated(redis) == []


async def test_a_seat_survives_a_lost_script(redis: RedisService) -> None:
    await redis.client.script_flush()
    assert await seats(redis, "a", 1, "reject").claim(USER, "c1", "phone")
