"""在线状态：成批写入、死节点不算、Redis 断开与恢复、离场。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from meeting_push.clock import now_ms
from meeting_push.node_identity import NodeIdentity
from meeting_push.presence.online_status_service import OnlineStatusService
from meeting_push.redis.redis_service import RedisService
from meeting_push.settings import load_settings
from meeting_push.supervision import Aside, Supervisor
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer, redis_of
from tests.unit.presence.nodes import info

SETTINGS = load_settings(presence_flush_ms=0, node_lease_s=3)


@asynccontextmanager
async def node(redis: RedisService, node_id: str = "n1") -> AsyncIterator[OnlineStatusService]:
    status, supervisor = (
        OnlineStatusService(
            redis, NodeIdentity(node_id), SETTINGS.presence, SETTINGS.edge, aside=Aside("presence")
        ),
        Supervisor(),
    )
    await status.start(supervisor)
    yield status
    await supervisor.stop()
    await status.close()


@pytest.fixture
async def status(redis: RedisService) -> AsyncIterator[OnlineStatusService]:
    async with node(redis) as service:
        yield service


async def test_a_user_online_on_two_devices(status: OnlineStatusService) -> None:
    phone, laptop = info("c1", node="n1"), info("c2", node="n1")
    await status.set_user_online(7, phone)
    await status.set_user_online(7, laptop)
    assert await status.is_user_online(7)
    assert await status.get_user_connection_count(7) == 2
    found = await status.get_user_connections(7)
    assert sorted(found, key=lambda one: one.connection_id) == [phone, laptop]


async def test_the_last_device_takes_the_user_offline(
    status: OnlineStatusService, redis: RedisService
) -> None:
    await status.set_user_online(7, info("c1"))
    await status.set_user_online(7, info("c2"))
    await status.set_user_offline(7, "c1")
    assert await status.is_user_online(7)
    await status.set_user_offline(7, "c2")
    await status.set_user_offline(7, "c2")
    assert not await status.is_user_online(7)
    keys = redis.keys
    names = (keys.online_user(7), keys.connection_count(7), keys.online_users_set)
    assert await redis.lean.execute_many([("EXISTS", one) for one in names]) == [0] * len(names)


async def test_the_keys_are_those_of_the_contract_and_expire(
    status: OnlineStatusService, redis: RedisService
) -> None:
    connection = info("c1")
    await status.set_user_online(7, connection)
    keys, lean = redis.keys, redis.lean
    assert await lean.execute("HKEYS", keys.online_user(7)) == [b"c1"]
    assert await lean.execute("GET", keys.connection_count(7)) == b"1"
    score = await lean.execute("ZSCORE", keys.online_users_set, 7)
    assert int(score) == connection.last_heartbeat
    names = (keys.online_user(7), keys.connection_count(7), keys.online_users_set, keys.node("n1"))
    assert all([await lean.execute("PTTL", name) > 0 for name in names])


async def test_an_unknown_user_is_offline(status: OnlineStatusService) -> None:
    assert not await status.is_user_online(7)
    assert await status.get_user_connections(7) == []


async def test_online_users_are_paged_by_id(status: OnlineStatusService) -> None:
    for user in (3, 1, 2, 20):
        await status.set_user_online(user, info(f"c{user}"))
    assert await status.get_online_users() == [1, 2, 3, 20]
    assert await status.get_online_users(after=1, limit=2) == [2, 3]


async def test_what_the_edge_notes_is_written_soon(status: OnlineStatusService) -> None:
    status.ledger.connection_opened(7, info("c1"))
    await eventually(lambda: status.is_user_online(7))
    status.ledger.connection_closed(7, "c1")
    await eventually(lambda: _offline(status, 7))


async def test_heartbeats_and_status_are_written(status: OnlineStatusService) -> None:
    await status.set_user_online(7, info("c1"))
    later = now_ms() + 1000
    status.ledger.heartbeat(7, "c1", later - 1)
    status.ledger.heartbeat(7, "c1", later)
    status.ledger.status_changed(7, "c1", "away", "tablet")
    await status.flush()
    [found] = await status.get_user_connections(7)
    assert (found.last_heartbeat, found.status, found.device_info) == (later, "away", "tablet")
    status.ledger.status_changed(7, "c1", "busy", None)
    await status.flush()
    [found] = await status.get_user_connections(7)
    assert (found.status, found.device_info) == ("busy", "tablet")


async def test_a_heartbeat_after_the_close_does_not_revive(status: OnlineStatusService) -> None:
    await status.set_user_online(7, info("c1"))
    status.ledger.connection_closed(7, "c1")
    status.ledger.heartbeat(7, "c1", now_ms())
    await status.flush()
    assert not await status.is_user_online(7)


async def test_connections_of_a_node_without_a_lease_do_not_count(
    status: OnlineStatusService, redis: RedisService
) -> None:
    leaseless = OnlineStatusService(
        redis, NodeIdentity("dead"), SETTINGS.presence, SETTINGS.edge, aside=Aside("presence")
    )
    await leaseless.set_user_online(7, info("c1"))
    await status.set_user_online(8, info("c2"))
    assert not await status.is_user_online(7)
    assert await status.get_online_users() == [8]


async def test_a_connection_belongs_to_the_node_that_registers_it(
    status: OnlineStatusService,
) -> None:
    await status.set_user_online(7, info("c1", node="somebody else"))
    assert [one.node for one in await status.get_user_connections(7)] == ["n1"]


async def test_the_lease_is_renewed(redis: RedisService) -> None:
    settings = load_settings(presence_flush_ms=0, node_lease_s=1)
    status, supervisor = (
        OnlineStatusService(
            redis, NodeIdentity("n1"), settings.presence, settings.edge, aside=Aside("presence")
        ),
        Supervisor(),
    )
    await status.start(supervisor)
    key = redis.keys.node("n1")
    first = await redis.lean.execute("GET", key)

    async def renewed() -> bool:
        return bool(await redis.lean.execute("GET", key) not in (None, first))

    await eventually(renewed)
    await supervisor.stop()
    await status.close()


async def test_a_lost_lease_makes_the_node_write_everything_again(redis: RedisService) -> None:
    settings = load_settings(presence_flush_ms=0, node_lease_s=1)
    status, supervisor = (
        OnlineStatusService(
            redis, NodeIdentity("n1"), settings.presence, settings.edge, aside=Aside("presence")
        ),
        Supervisor(),
    )
    await status.start(supervisor)
    await status.set_user_online(7, info("c1"))
    keys = redis.keys
    names = (keys.node("n1"), keys.online_user(7), keys.online_users_set)
    await redis.lean.unlink(names)
    await eventually(lambda: status.is_user_online(7))
    await supervisor.stop()
    await status.close()


async def test_close_removes_only_this_node(redis: RedisService) -> None:
    async with node(redis, "n1") as first:
        async with node(redis, "n2") as second:
            await first.set_user_online(7, info("c1", node="n1"))
            await second.set_user_online(7, info("c2", node="n2"))
        assert [one.node for one in await first.get_user_connections(7)] == ["n1"]
        assert await redis.lean.execute("HKEYS", redis.keys.online_user(7)) == [b"c1"]
        assert await redis.lean.execute("EXISTS", redis.keys.node("n2")) == 0


async def test_another_node_can_take_a_connection_off(redis: RedisService) -> None:
    async with node(redis, "n1") as first, node(redis, "n2") as second:
        await first.set_user_online(7, info("c1", node="n1"))
        await second.set_user_offline(7, "c1")
        assert not await first.is_user_online(7)


async def test_a_malformed_entry_is_ignored(
    status: OnlineStatusService, redis: RedisService
) -> None:
    await status.set_user_online(7, info("c1"))
    await redis.lean.execute("HSET", redis.keys.online_user(7), "x", "not json")
    assert await status.get_user_connection_count(7) == 1


async def test_a_thousand_connections_are_written_in_batches(status: OnlineStatusService) -> None:
    for user in range(1, 1201):
        status.ledger.connection_opened(user, info(f"c{user}"))
    await status.flush()
    assert len(await status.get_online_users()) == 1200


async def test_presence_recovers_from_an_empty_redis(
    private_redis_server: RedisServer, key_prefix: str
) -> None:
    async with redis_of(private_redis_server, key_prefix) as redis, node(redis) as status:
        await status.set_user_online(7, info("c1"))
        await status.set_user_online(8, info("c2"))
        private_redis_server.kill()
        await eventually(lambda: not redis.lean.connected)
        status.ledger.connection_closed(8, "c2")
        status.ledger.connection_opened(9, info("c3"))
        _empty(private_redis_server)
        private_redis_server.start()
        await eventually(lambda: redis.lean.connected)
        await eventually(lambda: _online(status, [7, 9]))


async def test_connections_that_come_and_go_during_an_outage_leave_no_backlog(
    private_redis_server: RedisServer, key_prefix: str
) -> None:
    async with redis_of(private_redis_server, key_prefix) as redis, node(redis) as status:
        private_redis_server.kill()
        await eventually(lambda: not redis.lean.connected)
        for number in range(1000):
            status.ledger.connection_opened(7, info(f"c{number}"))
            status.ledger.connection_closed(7, f"c{number}")
        await asyncio.sleep(0)
        assert (status.statistics().pending, status.ledger.written) == (0, 0)
        private_redis_server.start()
        await eventually(lambda: redis.lean.connected)


async def test_close_without_redis_does_not_raise(
    private_redis_server: RedisServer, key_prefix: str
) -> None:
    async with redis_of(private_redis_server, key_prefix) as redis, node(redis) as status:
        await status.set_user_online(7, info("c1"))
        private_redis_server.kill()
        await eventually(lambda: not redis.lean.connected)


async def _offline(status: OnlineStatusService, user_id: int) -> bool:
    return not await status.is_user_online(user_id)


async def _online(status: OnlineStatusService, users: list[int]) -> bool:
    return await status.get_online_users() == users


def _empty(server: RedisServer) -> None:
    for path in sorted(server.directory.rglob("appendonly*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
