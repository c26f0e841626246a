"""转变恰好发布一次：上线、离线、状态，在改变它的那一批里。"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from meeting_push.redis.redis_service import RedisService
from meeting_push.redis.sharded_subscriber import subscriber_for
from meeting_push.supervision import Supervisor
from tests.support.eventually import eventually

from .nodes import crash, info, node

Seen = list[tuple[bool, str | None]]


class Listener:
    """在用户 1 的频道上听；``heard`` 返回到此刻为止发布的一切。"""

    def __init__(self, redis: RedisService) -> None:
        self._redis = redis
        self._fence = asyncio.Event()
        self._seen: Seen = []
        self.subscriber = subscriber_for(redis.lean, redis.keys)

    async def start(self) -> None:
        await self.subscriber.start(self._on_message, lambda: None)
        await self.subscriber.subscribe_channel(self._redis.keys.presence_channel(1))

    def _on_message(self, _channel: bytes, payload: bytes) -> None:
        if payload == b"fence":
            self._fence.set()
            return
        frame = json.loads(payload)
        assert (frame["type"], frame["user_id"]) == ("presence", 1)
        self._seen.append((frame["online"], frame["status"]))

    async def heard(self) -> Seen:
        self._fence.clear()
        await self._redis.publish(self._redis.keys.presence_channel(1), "fence")
        await asyncio.wait_for(self._fence.wait(), 5)
        seen, self._seen = self._seen, []
        return seen


@pytest.fixture
async def listener(redis: RedisService) -> AsyncIterator[Listener]:
    one = Listener(redis)
    await one.start()
    yield one
    await one.subscriber.close()


async def test_online_and_offline_once_whatever_the_number_of_devices(
    redis: RedisService, listener: Listener
) -> None:
    here, there = await node(redis), await node(redis)
    await here.set_user_online(1, info("a"))
    await there.set_user_online(1, info("b"))
    assert await listener.heard() == [(True, "active")]
    await here.set_user_offline(1, "a")
    assert await listener.heard() == []
    await there.set_user_offline(1, "b")
    await there.set_user_offline(1, "b")
    assert await listener.heard() == [(False, None)]


async def test_a_heartbeat_publishes_nothing(redis: RedisService, listener: Listener) -> None:
    here = await node(redis)
    await here.set_user_online(1, info("a"))
    await listener.heard()
    here.ledger.heartbeat(1, "a", info("a").last_heartbeat + 1000)
    here.resync()
    await here.flush()
    assert await listener.heard() == []


async def test_the_status_is_that_of_all_devices(redis: RedisService, listener: Listener) -> None:
    here, there = await node(redis), await node(redis)
    await here.set_user_online(1, info("a", "away"))
    await there.set_user_online(1, info("b", "active"))
    here.ledger.status_changed(1, "a", "busy", None)
    await here.flush()
    there.ledger.status_changed(1, "b", "away", None)
    await there.flush()
    await here.set_user_offline(1, "a")
    assert await listener.heard() == [
        (True, "away"),
        (True, "active"),
        (True, "busy"),
        (True, "away"),
    ]
    assert await here.statuses([1]) == ["away"]


async def test_reaping_publishes_offline_once(redis: RedisService, listener: Listener) -> None:
    dead, first, second = await node(redis), await node(redis), await node(redis)
    await dead.set_user_online(1, info("a"))
    await dead.set_user_online(1, info("b"))
    await listener.heard()
    await crash(redis, dead)
    await asyncio.gather(first.reaper.sweep(), second.reaper.sweep())
    assert await listener.heard() == [(False, None)]


async def test_a_user_who_moved_from_a_dead_node_is_not_announced_offline(
    redis: RedisService, listener: Listener
) -> None:
    dead, other = await node(redis), await node(redis)
    await dead.set_user_online(1, info("a"))
    await listener.heard()
    await crash(redis, dead)
    await other.set_user_online(1, info("b"))
    await other.reaper.sweep()
    assert set(await listener.heard()) == {(True, "active")}


async def test_a_user_read_as_offline_is_announced_when_he_comes_back(
    redis: RedisService, listener: Listener
) -> None:
    """死节点的残留还没收拾：读到的是离线，所以重新连上必须发布。"""
    dead, other = await node(redis), await node(redis)
    await dead.set_user_online(1, info("a"))
    await listener.heard()
    await crash(redis, dead)
    assert await other.statuses([1]) == [None]
    await other.set_user_online(1, info("b"))
    assert await listener.heard() == [(True, "active")]


async def test_a_connection_opened_without_a_lease_is_announced(
    redis: RedisService, listener: Listener
) -> None:
    paused = await node(redis)
    await crash(redis, paused)
    await paused.set_user_online(1, info("a"))
    assert await listener.heard() == [(True, "active")]


async def test_a_node_whose_lease_had_lapsed_announces_its_users_again(
    redis: RedisService, listener: Listener
) -> None:
    """期间读到的是离线；没有人收拾过，所以只有它自己能说他们还在。"""
    here, supervisor = await node(redis, node_lease_s=1), Supervisor()
    await here.start(supervisor)
    await here.set_user_online(1, info("a"))
    await listener.heard()
    await crash(redis, here)
    assert await eventually(listener.heard) == [(True, "active")]
    await supervisor.stop()
