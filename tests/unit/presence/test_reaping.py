"""CON-2：死节点的人离线，读取立刻就对，收拾恰好一次。"""

from __future__ import annotations

import asyncio

from meeting_push.redis.redis_service import RedisService
from meeting_push.supervision import Supervisor
from tests.support.eventually import eventually

from .nodes import ABSENT, crash, info, node, stored


async def test_con_2_reads_are_right_from_the_first_after_the_lease_ended(
    redis: RedisService,
) -> None:
    dead, reader = await node(redis), await node(redis)
    await dead.set_user_online(1, info("a"))
    await dead.set_user_online(2, info("b"))
    await reader.set_user_online(2, info("c"))
    await crash(redis, dead)
    assert await reader.get_online_users() == [2]
    assert not await reader.is_user_online(1)
    assert [one.connection_id for one in await reader.get_user_connections(2)] == ["c"]
    assert await reader.get_user_connection_count(2) == 1
    assert await reader.statuses([1, 2]) == [None, "active"]


async def test_con_2_a_dead_nodes_entries_are_removed(redis: RedisService) -> None:
    dead, other = await node(redis), await node(redis)
    await dead.set_user_online(1, info("a"))
    await dead.set_user_online(2, info("b"))
    await other.set_user_online(2, info("c"))
    await crash(redis, dead)
    await other.reaper.sweep()
    assert await stored(redis, 1) == ABSENT
    assert await stored(redis, 2) == (1, 1, True, True)
    keys = redis.keys
    assert await redis.lean.execute("EXISTS", keys.node_connections(dead._node.id)) == 0
    assert not await redis.lean.execute("SISMEMBER", keys.nodes, dead._node.id)


async def test_two_racing_reapers_remove_each_connection_exactly_once(redis: RedisService) -> None:
    dead, first, second = await node(redis), await node(redis), await node(redis)
    for user_id in range(1, 1001):
        dead.ledger.connection_opened(user_id, info(f"c{user_id}"))
    await dead.flush()
    await crash(redis, dead)
    await asyncio.gather(*(one.reaper.sweep() for one in (first, second, first, second)))
    reapers = (first.reaper, second.reaper)
    assert sum(one.connections_reaped for one in reapers) == 1000
    assert sum(one.nodes_reaped for one in reapers) == 1
    assert await redis.lean.execute("ZCARD", redis.keys.online_users_set) == 0


async def test_a_node_that_wakes_up_is_left_alone(redis: RedisService) -> None:
    paused, other = await node(redis), await node(redis)
    await paused.set_user_online(1, info("a"))
    await crash(redis, paused)
    assert not await paused._renew()
    await other.reaper.reap(paused._node.id)
    assert await other.is_user_online(1)


async def test_a_node_reaped_while_it_slept_comes_back_whole(redis: RedisService) -> None:
    paused, other, supervisor = await node(redis, node_lease_s=1), await node(redis), Supervisor()
    await paused.set_user_online(1, info("a"))
    await crash(redis, paused)
    await other.reaper.sweep()
    assert await stored(redis, 1) == ABSENT
    await paused.start(supervisor)
    paused.resync()
    await eventually(lambda: other.is_user_online(1))
    await supervisor.stop()


async def test_a_connection_of_the_same_name_on_another_node_survives(redis: RedisService) -> None:
    dead, other = await node(redis), await node(redis)
    await dead.set_user_online(1, info("phone"))
    await crash(redis, dead)
    await other.set_user_online(1, info("phone"))
    await other.reaper.sweep()
    assert [one.node for one in await other.get_user_connections(1)] == [other._node.id]
    assert await stored(redis, 1) == (1, 1, True, True)


async def test_what_a_node_writes_without_a_lease_is_reaped_too(redis: RedisService) -> None:
    """租约断了、还没续上就死了：登记与索引在，收拾得到。"""
    dead, other = await node(redis), await node(redis)
    await crash(redis, dead)
    await other.reaper.sweep()
    await dead.set_user_online(1, info("a"))
    await other.reaper.sweep()
    assert await stored(redis, 1) == ABSENT


async def test_a_malformed_index_entry_does_not_stop_the_reaper(redis: RedisService) -> None:
    dead, other = await node(redis), await node(redis)
    await dead.set_user_online(1, info("a"))
    await redis.lean.execute("SADD", redis.keys.node_connections(dead._node.id), "junk")
    await crash(redis, dead)
    await other.reaper.sweep()
    assert await stored(redis, 1) == ABSENT


async def test_a_node_that_leaves_cleans_up_after_itself(redis: RedisService) -> None:
    leaving, other = await node(redis), await node(redis)
    for user_id in (1, 2, 3):
        await leaving.set_user_online(user_id, info(f"c{user_id}"))
    await leaving.close()
    assert await stored(redis, 2) == ABSENT
    assert await redis.lean.execute("SMEMBERS", redis.keys.nodes) == [other._node.id.encode()]
