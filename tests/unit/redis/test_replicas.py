"""``WAIT``：副本收到了才回答；到时不够照样算写下，数着；等着的时候别人不跟着等。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from meeting_push.errors import RedisUnavailableError
from meeting_push.mailbox_model import Delivery
from meeting_push.redis.address import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.mailboxes import Mailboxes, MailboxLimits
from meeting_push.redis.redis_service import RedisService
from meeting_push.redis.replicas import Replicas, Wait
from meeting_push.redis.slot_map import slot_of
from tests.support.clusters import ClusterServer, ClusterSite, running_cluster
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer, find_redis7
from tests.support.sentinels import SentinelSite, running_site

HOUR_MS = 3_600_000
LIMITS = MailboxLimits(100, 100, HOUR_MS, 2 * HOUR_MS)
ANN = 7
#: 机器停顿，也等得到。
LONG_MS = 150_000

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelSite]:
    """一主一副本，不许切换。"""
    binary = find_redis7()
    if binary is None:
        pytest.skip("no redis-server >= 7 on PATH")
    directory = tmp_path_factory.mktemp("wait")
    yield from running_site(SentinelSite(binary, directory, replicas=1, down_after_ms=600_000))


@pytest.fixture
def replica(site: SentinelSite) -> RedisServer:
    site.whole()
    master = site.master
    return next(server for server in site.servers if server is not master)


@pytest.fixture
async def redis(
    site: SentinelSite, replica: RedisServer, key_prefix: str
) -> AsyncIterator[RedisService]:
    """``replica``：主有一个跟上的副本之后。"""
    service = service_of(site.url, key_prefix, Wait(1, LONG_MS))
    await service.start()
    yield service
    await service.close()


def service_of(url: str, key_prefix: str, wait: Wait) -> RedisService:
    return RedisService(RedisAddress.parse(url), Keys(key_prefix), wait=wait)


def boxes_of(redis: RedisService) -> Mailboxes:
    boxes = Mailboxes(redis.lean, redis.keys, LIMITS)
    boxes.replicas = redis.replicas
    return boxes


def short_of(redis: RedisService) -> int:
    assert isinstance(redis.replicas, Replicas)
    return redis.replicas.short


def delivery(number: int, *user_ids: int) -> Delivery:
    return Delivery(
        message_id=f"{number:026d}",
        tail=b'"message_id":"","title":"t"}',
        recipient_ids=user_ids or (ANN,),
        priority=0,
        expires_at=4_000_000_000_000,
    )


async def test_what_was_answered_is_on_the_replica(
    site: SentinelSite, replica: RedisServer, redis: RedisService
) -> None:
    boxes = boxes_of(redis)
    with site.client(replica) as client:
        for number in range(20):
            await boxes.deliver([delivery(number)], publish=False)
            assert delivery(number).message_id in client.zrange(redis.keys.mailbox(ANN), 0, -1)
    assert short_of(redis) == 0


async def test_a_replica_that_hangs_refuses_nothing_and_is_counted(
    site: SentinelSite, replica: RedisServer, key_prefix: str
) -> None:
    hasty = service_of(site.url, key_prefix, Wait(1, 50))
    await hasty.start()
    replica.pause()
    try:
        done = await boxes_of(hasty).deliver([delivery(1)], publish=False)
        assert [row[0].seq for row in done.rows] == [1]
        assert short_of(hasty) == 1
    finally:
        replica.resume()
        await hasty.close()


async def test_nobody_else_waits_while_it_waits(replica: RedisServer, redis: RedisService) -> None:
    replica.pause()
    try:
        waiting = asyncio.ensure_future(boxes_of(redis).deliver([delivery(1)], publish=False))
        await eventually(lambda: redis.writing.commands >= 2)
        await redis.lean.execute("PING")
        assert not waiting.done()
    finally:
        replica.resume()
    await waiting


async def test_a_connection_that_is_lost_while_waiting_leaves_it_unknown(
    replica: RedisServer, redis: RedisService
) -> None:
    replica.pause()
    try:
        waiting = asyncio.ensure_future(boxes_of(redis).deliver([delivery(1)], publish=False))
        await eventually(lambda: redis.writing.commands >= 2)
        await redis.writing.close()
        with pytest.raises(RedisUnavailableError):
            await waiting
    finally:
        replica.resume()


def test_without_it_there_is_no_second_connection(redis_server: RedisServer) -> None:
    service = redis_server.service()
    assert service.writing is service.lean
    assert service.replicas is None


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSite]:
    """三个主，各一个副本。"""
    binary = find_redis7()
    if binary is None:
        pytest.skip("no redis-server >= 7 on PATH")
    yield from running_cluster(ClusterSite(binary, tmp_path_factory.mktemp("waits"), replicas=1))


async def test_on_a_cluster_every_master_that_took_a_part_is_waited_for(
    cluster: ClusterSite, key_prefix: str
) -> None:
    redis = service_of(cluster.url, key_prefix, Wait(1, LONG_MS))
    await redis.start()
    try:
        everybody = tuple(range(1, 13))
        assert len({cluster.owner_of(slot_of(str(one))).port for one in everybody}) == 3
        await boxes_of(redis).deliver([delivery(1, *everybody)], publish=False)
        assert short_of(redis) == 0
        held = [one for replica in cluster.servers[3:] for one in mailboxes(cluster, replica)]
        assert sorted(held) == sorted(redis.keys.mailbox(one) for one in everybody)
    finally:
        await redis.close()


def mailboxes(cluster: ClusterSite, replica: ClusterServer) -> list[str]:
    with cluster.client(replica) as client:
        return list(client.scan_iter("*offline_messages:*"))
