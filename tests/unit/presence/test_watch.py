"""关注：此刻的状态、跨节点的变化、宽限、上限、断线之后。"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from meeting_push.contracts import ChannelRoute
from meeting_push.errors import RedisUnavailableError, UnavailableError, WatchLimitError
from meeting_push.presence import watch as presence_watch
from meeting_push.presence.online_status_service import OnlineStatusService
from meeting_push.presence.watch import PresenceWatch
from meeting_push.redis.redis_service import RedisService
from meeting_push.redis.sharded_subscriber import subscriber_for
from meeting_push.supervision import Supervisor
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer, redis_of

from .nodes import crash, info, node, settings

State = tuple[int, bool, str | None]


class Viewer:
    """记下收到的 ``presence`` 帧。"""

    def __init__(self, user_id: int = 9, ip_address: str = "10.0.0.9") -> None:
        self.user_id = user_id
        self.ip_address = ip_address
        self.seen: list[State] = []

    def send_all(self, frames: Iterable[bytes]) -> None:
        for frame in map(json.loads, frames):
            assert frame["type"] == "presence"
            self.seen.append((frame["user_id"], frame["online"], frame["status"]))

    async def next(self) -> State:
        await eventually(lambda: self.seen)
        return self.seen.pop(0)


class Room:
    """一个节点上的关注，与它自己的订阅连接。"""

    def __init__(self, redis: RedisService, presence: OnlineStatusService, **changes: Any) -> None:
        self.routes: dict[bytes, ChannelRoute] = {}
        self.redis = redis
        self.subscriber = subscriber_for(redis.lean, redis.keys)
        self.watch = PresenceWatch(
            self.subscriber, self.routes, presence, redis.keys, settings(**changes).presence
        )

    def on_message(self, channel: bytes, payload: bytes) -> None:
        if route := self.routes.get(channel):
            assert route(payload)

    async def fence(self) -> None:
        """此前发布的都已收到：每条订阅连接上。"""
        keys = self.redis.keys
        for name in self.subscriber.one_each(lambda n: f"{keys.canary_channel('fence')}:{n}"):
            await self._fence(name)

    async def _fence(self, name: str) -> None:
        arrived = asyncio.Event()

        def arrive(_payload: bytes) -> bool:
            arrived.set()
            return True

        self.routes[name.encode()] = arrive
        await self.subscriber.subscribe_channel(name)
        await self.redis.publish(name, "")
        await asyncio.wait_for(arrived.wait(), 5)
        self.subscriber.unsubscribe_channel(name)
        del self.routes[name.encode()]


@asynccontextmanager
async def room(
    redis: RedisService, presence: OnlineStatusService, **changes: Any
) -> AsyncIterator[Room]:
    one, supervisor = Room(redis, presence, **changes), Supervisor()
    await one.subscriber.start(one.on_message, one.watch.resync)
    supervisor.start("watch", one.watch.run)
    yield one
    await supervisor.stop()
    await one.subscriber.close()


async def test_the_state_of_each_watched_user_comes_at_once(redis: RedisService) -> None:
    here, there, viewer = await node(redis), await node(redis), Viewer()
    await there.set_user_online(2, info("a", "busy"))
    async with room(redis, here) as one:
        assert await one.watch.watch(viewer, [1, 2, 2]) == 2
        assert viewer.seen == [(1, False, None), (2, True, "busy")]


async def test_changes_on_any_node_are_told(
    redis: RedisService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_watch, "ANNOUNCE_GAP_MS", 10)
    here, there, viewer = await node(redis), await node(redis), Viewer()
    async with room(redis, here, presence_grace_s=0) as one:
        await one.watch.watch(viewer, [1])
        assert await viewer.next() == (1, False, None)
        await there.set_user_online(1, info("a"))
        assert await viewer.next() == (1, True, "active")
        there.ledger.status_changed(1, "a", "away", None)
        await there.flush()
        assert await viewer.next() == (1, True, "away")
        await there.set_user_offline(1, "a")
        assert await viewer.next() == (1, False, None)


async def test_a_short_absence_is_not_told(redis: RedisService) -> None:
    here, viewer = await node(redis), Viewer()
    await here.set_user_online(1, info("a"))
    async with room(redis, here, presence_grace_s=60) as one:
        await one.watch.watch(viewer, [1])
        viewer.seen.clear()
        for _ in range(20):
            await here.set_user_offline(1, "a")
            await here.set_user_online(1, info("a"))
        await one.fence()
        assert viewer.seen == []


async def test_offline_is_told_after_the_grace(redis: RedisService) -> None:
    here, viewer = await node(redis), Viewer()
    await here.set_user_online(1, info("a"))
    async with room(redis, here, presence_grace_s=0.05) as one:
        await one.watch.watch(viewer, [1])
        viewer.seen.clear()
        await here.set_user_offline(1, "a")
        await one.fence()
        assert viewer.seen == []
        assert await viewer.next() == (1, False, None)


async def test_a_remaining_device_keeps_the_user_online(redis: RedisService) -> None:
    here, there, viewer = await node(redis), await node(redis), Viewer()
    await here.set_user_online(1, info("a"))
    await there.set_user_online(1, info("b"))
    async with room(redis, here, presence_grace_s=0) as one:
        await one.watch.watch(viewer, [1])
        viewer.seen.clear()
        await here.set_user_offline(1, "a")
        await one.fence()
        assert viewer.seen == []


async def test_the_death_of_a_node_is_told_when_it_is_reaped(redis: RedisService) -> None:
    dead, here, viewer = await node(redis), await node(redis), Viewer()
    await dead.set_user_online(1, info("a"))
    async with room(redis, here, presence_grace_s=0) as one:
        await one.watch.watch(viewer, [1])
        viewer.seen.clear()
        await crash(redis, dead)
        await here.reaper.sweep()
        assert await viewer.next() == (1, False, None)


async def test_nothing_comes_after_unwatch(redis: RedisService) -> None:
    here, viewer, other = await node(redis), Viewer(), Viewer()
    async with room(redis, here) as one:
        await one.watch.watch(viewer, [1, 2])
        await one.watch.watch(other, [1])
        viewer.seen.clear()
        other.seen.clear()
        assert one.watch.unwatch(viewer, [1, 3]) == 1
        await here.set_user_online(1, info("a"))
        assert await other.next() == (1, True, "active")
        assert viewer.seen == []


async def test_the_last_watcher_takes_the_subscription_along(redis: RedisService) -> None:
    here, viewer, other = await node(redis), Viewer(), Viewer()
    async with room(redis, here) as one:
        await one.watch.watch(viewer, range(1, 51))
        await one.watch.watch(other, [1])
        assert one.subscriber.channel_count == 50
        one.watch.forget(viewer)
        one.watch.forget(viewer)
        assert one.subscriber.channel_count == 1
        one.watch.forget(other)
        assert (one.subscriber.channel_count, one.routes) == (0, {})
        assert (one.watch.statistics().watchers, one.watch.statistics().watched) == (0, 0)


async def test_two_who_watch_at_the_same_moment_share_one_read(redis: RedisService) -> None:
    here, viewers = await node(redis), [Viewer() for _ in range(10)]
    await here.set_user_online(1, info("a"))
    async with room(redis, here) as one:
        await asyncio.gather(*(one.watch.watch(each, [1]) for each in viewers))
        assert [each.seen for each in viewers] == [[(1, True, "active")]] * 10
        assert one.subscriber.channel_count == 1


async def test_leaving_while_the_first_read_is_under_way(redis: RedisService) -> None:
    here, viewer = await node(redis), Viewer()
    async with room(redis, here) as one:
        watching = asyncio.create_task(one.watch.watch(viewer, [1]))
        await asyncio.sleep(0)
        one.watch.forget(viewer)
        assert await watching == 0
        assert (viewer.seen, one.subscriber.channel_count) == ([], 0)


async def test_a_connection_watches_a_bounded_number(redis: RedisService) -> None:
    here, viewer = await node(redis), Viewer()
    async with room(redis, here, max_watched_per_connection=3) as one:
        await one.watch.watch(viewer, [1, 2])
        with pytest.raises(WatchLimitError):
            await one.watch.watch(viewer, [2, 3, 4])
        assert await one.watch.watch(viewer, [2, 3]) == 3


async def test_a_node_watches_a_bounded_number(redis: RedisService) -> None:
    here, viewers = await node(redis), [Viewer(n, f"10.0.0.{n}") for n in range(5)]
    async with room(redis, here, max_watched_users=4) as one:
        for viewer in viewers[:4]:
            await one.watch.watch(viewer, [100 + viewer.user_id])
        with pytest.raises(UnavailableError):
            await one.watch.watch(viewers[4], [100, 104])
        assert await one.watch.watch(viewers[4], [100]) == 1


async def test_a10_one_user_has_a_share_of_the_node(redis: RedisService) -> None:
    """A10：一个用户有多少设备也用不完节点的关注；别人照样关注得了，走了的还回来。"""
    here, mallory = await node(redis), [Viewer(6) for _ in range(4)]
    async with room(redis, here, max_watched_users=40, max_watched_per_user=5) as one:
        await one.watch.watch(mallory[0], [1, 2, 3])
        await one.watch.watch(mallory[1], [4, 5])
        with pytest.raises(WatchLimitError):
            await one.watch.watch(mallory[2], [6])
        assert await one.watch.watch(mallory[2], [1, 2, 3, 4, 5]) == 5  # 不多占
        assert await one.watch.watch(Viewer(7), [6, 7]) == 2
        for device in mallory:
            one.watch.forget(device)
        assert await one.watch.watch(mallory[3], [8, 9]) == 2


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"] * 3, ["2001:db8::1", "2001:db8::2", "2001:db8::3"]]
)
async def test_a10_one_address_has_a_share_of_the_node(
    redis: RedisService, addresses: list[str]
) -> None:
    """A10：许多账号、一个地址（IPv6 按 /64）也只占得了四分之一。"""
    here, accounts = await node(redis), [Viewer(n, one) for n, one in enumerate(addresses)]
    async with room(redis, here, max_watched_users=8) as one:
        await one.watch.watch(accounts[0], [1])
        await one.watch.watch(accounts[1], [2])
        with pytest.raises(UnavailableError):
            await one.watch.watch(accounts[2], [3])
        assert await one.watch.watch(Viewer(9, "2001:db8:0:1::1"), [3, 4]) == 2


async def test_who_leaves_hands_his_share_to_who_still_watches(redis: RedisService) -> None:
    """A10：先关注的走了，算在还看着的人头上；走了的不再付账。"""
    here, first, second = await node(redis), Viewer(1), Viewer(2)
    async with room(redis, here, max_watched_per_user=2) as one:
        await one.watch.watch(first, [10, 11])
        await one.watch.watch(second, [10, 11])
        one.watch.forget(first)
        assert await one.watch.watch(first, [12, 13]) == 2
        with pytest.raises(WatchLimitError):
            await one.watch.watch(second, [14])


async def test_a_malformed_payload_is_counted_and_dropped(redis: RedisService) -> None:
    here, viewer = await node(redis), Viewer()
    async with room(redis, here) as one:
        await one.watch.watch(viewer, [1])
        viewer.seen.clear()
        bad: Sequence[str] = ("junk", "{}", '{"type":"control"}', "[" * 10_000)
        for payload in bad:
            await redis.publish(redis.keys.presence_channel(1), payload)
        await one.fence()
        assert (viewer.seen, one.watch.statistics().malformed) == ([], len(bad))


async def test_what_happened_while_redis_was_away_is_told(
    private_redis_server: RedisServer, key_prefix: str
) -> None:
    async with redis_of(private_redis_server, key_prefix) as redis:
        here, viewer = await node(redis), Viewer()
        await here.set_user_online(1, info("a"))
        async with room(redis, here, presence_grace_s=0) as one:
            await one.watch.watch(viewer, [1, 2])
            viewer.seen.clear()
            private_redis_server.kill()
            await eventually(lambda: not (redis.lean.connected or one.subscriber.connected))
            with pytest.raises(RedisUnavailableError):
                await here.statuses([1])
            private_redis_server.start()
            async with redis_of(private_redis_server, key_prefix) as another:
                await another.lean.execute("DEL", redis.keys.online_user(1))
                await (await node(another)).set_user_online(2, info("b"))
            assert sorted([await viewer.next(), await viewer.next()]) == [
                (1, False, None),
                (2, True, "active"),
            ]
