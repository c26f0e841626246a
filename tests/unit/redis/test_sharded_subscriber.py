"""Cluster 上的订阅：各人的频道是分片的；槽搬了、主换了，没有一个频道悄悄地聋了。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from meeting_push.redis.redis_service import RedisService
from meeting_push.redis.sharded_subscriber import ShardedSubscriber, subscriber_for
from meeting_push.redis.slot_map import slot_of
from tests.support.clusters import ClusterSite
from tests.support.eventually import eventually
from tests.support.redis_server import find_redis7, redis_of

pytestmark = pytest.mark.timeout(240)

USERS = range(1, 61)


class Ears:
    """一个订阅者，与它听到的。"""

    def __init__(self, redis: RedisService, timeout_s: float = 5.0) -> None:
        self.redis = redis
        self.received: list[tuple[bytes, bytes]] = []
        self.resubscribed = asyncio.Event()
        subscriber = subscriber_for(redis.lean, redis.keys, timeout_s=timeout_s)
        assert isinstance(subscriber, ShardedSubscriber)
        self.subscriber = subscriber

    async def start(self) -> Ears:
        await self.subscriber.start(self._receive, self.resubscribed.set)
        return self

    def _receive(self, channel: bytes, payload: bytes) -> None:
        self.received.append((channel, payload))

    async def publish(self, user_id: int, text: str) -> int:
        return await self.redis.publish(self.redis.keys.user_channel(user_id), text)

    async def everyone_hears(self) -> None:
        """每个人的频道上此刻发的都听得到；正在搬、正在重订的再试。"""

        async def all_hear() -> bool:
            counts = await asyncio.gather(
                *(self.publish(user, "x") for user in USERS), return_exceptions=True
            )
            return counts == [1] * len(USERS)

        await eventually(all_hear, 60)

    def slot(self, user_id: int) -> int:
        return slot_of(self.redis.keys.user_channel(user_id))


@pytest.fixture
async def ears(cluster_site: ClusterSite, key_prefix: str) -> AsyncIterator[Ears]:
    async with redis_of(cluster_site.servers[0], key_prefix) as redis:
        started = await Ears(redis).start()
        yield started
        await started.subscriber.close()


@pytest.fixture
def changing_site(tmp_path: Path) -> Iterator[ClusterSite]:
    """自己的：三主三副本，可以搬槽、切换。"""
    binary = find_redis7()
    if binary is None:
        pytest.skip("no redis-server >= 7 on PATH")
    site = ClusterSite(binary, tmp_path, replicas=1, node_timeout_ms=3_000)
    site.start()
    yield site
    site.stop()


@pytest.fixture
async def moving(changing_site: ClusterSite, key_prefix: str) -> AsyncIterator[Ears]:
    async with redis_of(changing_site.servers[0], key_prefix) as redis:
        started = await Ears(redis, timeout_s=1).start()
        for user in USERS:
            await started.subscriber.subscribe(user)
        yield started
        await started.subscriber.close()


async def test_users_on_every_master_are_heard(ears: Ears, cluster_site: ClusterSite) -> None:
    await asyncio.gather(*(ears.subscriber.subscribe(user) for user in USERS))
    counts = await asyncio.gather(*(ears.publish(user, f"{user}") for user in USERS))
    assert counts == [1] * len(USERS)
    await eventually(lambda: len(ears.received) == len(USERS))
    names = {ears.redis.keys.user_channel(user).encode(): b"%d" % user for user in USERS}
    assert dict(ears.received) == names
    assert len({cluster_site.owner_of(ears.slot(user)) for user in USERS}) == 3
    assert ears.subscriber.channel_count == len(USERS)
    assert not ears.resubscribed.is_set()


async def test_only_the_channels_of_many_people_are_shared_out(ears: Ears) -> None:
    """广播走总线：在哪个主上发都听得到。"""
    keys = ears.redis.keys
    await ears.subscriber.subscribe_channel(keys.broadcast_channel)
    await ears.subscriber.subscribe_channel(keys.presence_channel(7))
    for at, answer in enumerate(await ears.redis.lean.everywhere("PING")):
        assert answer == b"PONG", at
    await ears.redis.publish(keys.broadcast_channel, "all")
    assert await ears.redis.publish(keys.presence_channel(7), "one") == 1
    await eventually(lambda: len(ears.received) == 2)
    assert {payload for _, payload in ears.received} == {b"all", b"one"}


async def test_subscribe_unsubscribe_subscribe_ends_subscribed(ears: Ears) -> None:
    first = ears.subscriber.subscribing(7)
    ears.subscriber.unsubscribe(7)
    await ears.subscriber.subscribe(7)
    assert first is not None
    assert first.done()
    assert await ears.publish(7, "x") == 1
    ears.subscriber.unsubscribe(7)
    await ears.subscriber.subscribe(7)
    ears.subscriber.unsubscribe(7)
    await eventually(lambda: _nobody(ears))


async def _nobody(ears: Ears) -> bool:
    return await ears.publish(7, "x") == 0


async def test_one_channel_each_for_the_canary(ears: Ears) -> None:
    canary = ears.redis.keys.canary_channel("me")
    names = ears.subscriber.one_each(lambda number: f"{canary}:{number}")
    assert len(names) == 3
    for name in names:
        await ears.subscriber.subscribe_channel(name)
        assert await ears.redis.publish(name, "tweet") == 1


async def test_resetting_one_channel_reconnects_its_master_only(ears: Ears) -> None:
    await asyncio.gather(*(ears.subscriber.subscribe(user) for user in USERS))
    ears.subscriber.reset([ears.redis.keys.user_channel(7)])
    await asyncio.wait_for(ears.resubscribed.wait(), 30)
    await eventually(lambda: ears.subscriber.connected)
    assert ears.subscriber.reconnects == 1
    await ears.everyone_hears()


async def test_a_slot_that_moves_is_heard_at_its_new_master(
    moving: Ears, changing_site: ClusterSite
) -> None:
    slot = moving.slot(7)
    here = changing_site.owner_of(slot)
    there = next(one for one in changing_site.masters if one is not here)
    await asyncio.to_thread(changing_site.move_slot, slot, there)
    await asyncio.wait_for(moving.resubscribed.wait(), 30)
    await moving.everyone_hears()
    assert moving.subscriber.channel_count == len(USERS)


async def test_whoever_subscribes_while_the_slot_moves_is_heard(
    moving: Ears, changing_site: ClusterSite
) -> None:
    """订阅者的图是旧的：MOVED 说去哪里。"""
    for user in USERS:
        moving.subscriber.unsubscribe(user)
    slot = moving.slot(7)
    here = changing_site.owner_of(slot)
    there = next(one for one in changing_site.masters if one is not here)
    await asyncio.to_thread(changing_site.move_slot, slot, there)
    await asyncio.wait_for(moving.subscriber.subscribe(7), 30)
    await eventually(lambda: _heard(moving), 30)
    await asyncio.gather(*(moving.subscriber.subscribe(user) for user in USERS))
    await moving.everyone_hears()


async def _heard(ears: Ears) -> bool:
    return await ears.publish(7, "x") == 1


async def test_con_3_a_master_that_dies_takes_no_channel_along(
    moving: Ears, changing_site: ClusterSite
) -> None:
    slot = moving.slot(7)
    dead = changing_site.owner_of(slot)
    dead.kill()
    await eventually(lambda: not moving.subscriber.connected)
    during = asyncio.create_task(moving.subscriber.subscribe(7_000))
    await asyncio.to_thread(changing_site.promoted, dead, slot, 120)
    await asyncio.wait_for(moving.resubscribed.wait(), 60)
    await moving.everyone_hears()
    await asyncio.wait_for(during, 60)
    await eventually(lambda: moving.subscriber.connected, 30)


async def test_a_master_that_hands_over_takes_no_channel_along(
    moving: Ears, changing_site: ClusterSite
) -> None:
    """有人 ``CLUSTER FAILOVER``：从前的主还连得上，只是不再有人往那里发布。"""
    await asyncio.to_thread(changing_site.hand_over, moving.slot(7))
    await asyncio.wait_for(moving.resubscribed.wait(), 60)
    await moving.everyone_hears()
