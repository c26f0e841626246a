"""B1：一个人的在线状态被别人写坏，只是看不见他；各循环照转。"""

from __future__ import annotations

from meeting_push.presence.seats import DeviceSeats
from meeting_push.redis.redis_service import RedisService
from meeting_push.supervision import Aside

from .nodes import crash, info, node, settings


async def test_b1_a_spoiled_presence_key_hides_only_its_user(redis: RedisService) -> None:
    one = await node(redis)
    await redis.lean.execute("SET", redis.keys.online_user(1), "x")
    one.ledger.connection_opened(1, info("a"))
    one.ledger.connection_opened(2, info("b"))
    await one.flush()
    assert await one.is_user_online(2)
    assert await one.statuses([1, 2]) == [None, "active"]
    assert await one.get_online_users() == [2]


async def test_b1_junk_in_the_shared_indexes_is_passed_over(redis: RedisService) -> None:
    one = await node(redis)
    await one.set_user_online(2, info("b"))
    keys = redis.keys
    await redis.lean.execute("ZADD", keys.online_users_set, "9e15", "nobody")
    await redis.lean.execute("SADD", keys.node_connections(one._node.id), "junk", "x:\xff", b"\xff")
    await redis.lean.execute("SADD", keys.nodes, b"\xff\xfe")
    await one.reconciler.sweep()
    await one.reaper.sweep()
    assert await one.get_online_users() == [2]


async def test_b1_a_spoiled_key_does_not_stop_the_sweep_or_the_reaper(redis: RedisService) -> None:
    dead, other = await node(redis), await node(redis)
    for user_id in (1, 2, 3):
        await dead.set_user_online(user_id, info(f"c{user_id}"))
    await redis.lean.execute("DEL", redis.keys.online_user(1))
    await redis.lean.execute("SET", redis.keys.online_user(1), "x")
    await dead.reconciler.sweep()
    await dead.flush()
    await crash(redis, dead)
    await other.reaper.sweep()
    assert await redis.lean.execute("EXISTS", redis.keys.online_user(2)) == 0
    assert await redis.lean.execute("EXISTS", redis.keys.online_user(3)) == 0
    assert await redis.lean.execute("EXISTS", redis.keys.node_connections(dead._node.id)) == 0


async def test_b1_a_spoiled_seat_table_keeps_no_other_seat(redis: RedisService) -> None:
    one = await node(redis)
    seats = DeviceSeats(redis, one._node, settings().presence, aside=Aside("seats"))
    for user_id in (1, 2):
        assert await seats.claim(user_id, "c", "d")
    await redis.lean.execute("DEL", redis.keys.user_slots(1))
    await redis.lean.execute("SET", redis.keys.user_slots(1), "x")
    await seats._renew()
    for user_id in (1, 2):
        seats.release(user_id, "c")
    await seats.flush()
    assert await redis.lean.execute("EXISTS", redis.keys.user_slots(2)) == 0
