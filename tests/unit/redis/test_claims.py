"""代次与记号在 Cluster 上：哪一个主丢了数据都看得出来；进程的身份是各主合起来的。"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import astuple

import pytest

from meeting_push.clock import now_ms
from meeting_push.node_identity import NodeIdentity
from meeting_push.redis.claims import GenerationMark, RedisClaim, RedisMark
from meeting_push.redis.keys import QueueKeys
from meeting_push.redis.probe import RedisProbe
from meeting_push.redis.redis_service import RedisService
from meeting_push.redis.slot_map import STRETCHES, TAGS, slot_of, stretch_of
from meeting_push.redis.switches import LastWrite, Written
from tests.support.clusters import ClusterSite
from tests.support.redis_server import RedisServer, redis_of

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def spread(cluster_server: RedisServer, key_prefix: str) -> AsyncIterator[RedisService]:
    async with redis_of(cluster_server, key_prefix) as service:
        yield service


@pytest.fixture
async def mark(spread: RedisService) -> GenerationMark:
    begun = GenerationMark(spread.lean, spread.keys)
    assert await begun.read() is None
    await begun.begin(3, now_ms(), lost=False)
    return begun


def test_every_stretch_of_slots_has_its_tag() -> None:
    assert [stretch_of(slot_of(tag)) for tag in TAGS] == list(range(STRETCHES))


async def test_a_mark_that_is_everywhere_is_sound(mark: GenerationMark) -> None:
    assert await mark.advance(3, 1, 10)
    assert await mark.advance(3, 2, 20)
    assert await mark.read() == RedisMark(3, 2, 20)
    assert not await mark.advance(4, 3, 30), "another generation"


@pytest.mark.parametrize("stretch", [0, STRETCHES // 2, STRETCHES - 1])
async def test_a_stretch_that_lost_its_data_is_seen(
    spread: RedisService, mark: GenerationMark, stretch: int
) -> None:
    """一个主是空的、旧的：别的主说什么都不算好。"""
    await mark.advance(3, 1, 10)
    witness = spread.keys.generation_witness(TAGS[stretch])
    await spread.lean.execute("DEL", witness)
    assert await mark.read() == RedisMark(3, -1, 10)
    assert not await mark.advance(3, 2, 20)
    await mark.begin(4, 30, lost=True)
    assert await mark.read() == RedisMark(4, 0, 30)
    assert await mark.lost_after(29)


async def test_a_stretch_that_is_old_is_seen_and_one_behind_is_not(
    spread: RedisService, mark: GenerationMark
) -> None:
    witness = spread.keys.generation_witness(TAGS[7])
    for step in (1, 2, 3):
        assert await mark.advance(3, step, 10 * step)
    await spread.lean.execute("HSET", witness, "mark", 2)
    assert await mark.read() == RedisMark(3, 3, 30), "not read at one moment"
    await spread.lean.execute("HSET", witness, "mark", 1)
    assert await mark.read() == RedisMark(3, -1, 30)


async def test_an_advance_that_was_cut_short_goes_on(
    spread: RedisService, mark: GenerationMark
) -> None:
    """死在几个之间：有的已在下一个，再来一遍照样推进。"""
    await spread.lean.execute("HSET", spread.keys.generation_witness(TAGS[3]), "mark", 1)
    assert await mark.read() is not None
    assert await mark.advance(3, 1, 10)
    assert await mark.read() == RedisMark(3, 1, 10)


async def test_the_identity_is_that_of_every_master(
    spread: RedisService, mark: GenerationMark, cluster_site: ClusterSite
) -> None:
    asked = [cluster_site.client(one) for one in cluster_site.servers]
    ids = sorted(str(one.info("server")["run_id"]) for one in asked)
    for client in asked:
        client.close()
    assert await mark.run_id() == " ".join(ids)


async def test_the_probe_writes_to_every_master(
    spread: RedisService, cluster_site: ClusterSite
) -> None:
    probe = RedisProbe(spread, NodeIdentity("n1"), delivers=True)
    await probe.check()
    assert probe.skew_ms is not None
    for server in cluster_site.servers:
        with cluster_site.client(server) as client:
            assert list(client.scan_iter(f"{spread.keys.prefix}probe:*"))


async def test_the_last_write_of_every_stretch_is_a_witness(spread: RedisService) -> None:
    """一段槽的最后一条不在了，别段的都在：说得出是哪一条。"""
    last = LastWrite(spread.lean, spread.keys, 100)
    for user_id in range(1, 40):
        await spread.lean.execute("ZADD", spread.keys.message_log(user_id), 1, f"m-{user_id}")
        await spread.lean.execute("HSET", spread.keys.user_seq(user_id), "seq", 1)
        last.note(Written(user_id, f"m-{user_id}", 1, 3))
    last._connection = -1  # 换过连接
    assert await last.lost() is None
    for user_id in range(1, 40):
        last.note(Written(user_id, f"m-{user_id}", 1, 3))
    await spread.lean.unlink([spread.keys.message_log(5), spread.keys.user_seq(5)])
    last.note(Written(5, "m-5", 1, 3))
    last._connection = -1
    assert await last.lost() == Written(5, "m-5", 1, 3)


async def test_what_is_told_of_a_cluster_is_of_all_its_masters(
    spread: RedisService, cluster_site: ClusterSite
) -> None:
    info = await spread.info()
    assert info.connected_clients >= 3
    assert info.is_master
    assert await spread.eviction_policy() == "noeviction"
    server = cluster_site.servers[1]
    cluster_site.ask(server, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert await spread.eviction_policy() == "allkeys-lru"
    cluster_site.ask(server, "CONFIG", "SET", "maxmemory-policy", "noeviction")
    await spread.ping()
    assert abs(await spread.time_ms() - now_ms()) < 600_000
    assert await spread.client.execute_command("HSET", f"{spread.keys.prefix}h", "a", 1) == 1
    assert await spread.client.execute_command("HGETALL", f"{spread.keys.prefix}h") == {b"a": b"1"}


async def test_a_master_that_is_gone_is_seen_at_the_second_look(mark: GenerationMark) -> None:
    assert not await mark.replaced("a b")
    assert not await mark.replaced("a b c"), "one more master took nobody's place"
    assert not await mark.replaced("a c")
    assert await mark.replaced("a c")
    await mark.renew(4, now_ms(), "a c")
    assert not await mark.replaced("a c")
    assert not await mark.replaced("a c")


async def test_a_master_that_was_not_asked_once_is_not_gone(mark: GenerationMark) -> None:
    for masters in ("a b", "a", "a b", "b", "a b"):
        assert not await mark.replaced(masters)


async def test_whoever_comes_later_sees_it_too(spread: RedisService, mark: GenerationMark) -> None:
    assert not await mark.replaced("a b")
    heir = GenerationMark(spread.lean, spread.keys)
    assert not await heir.replaced("b c")
    assert await heir.replaced("b c")


async def test_what_was_written_before_a_renewal_must_still_be_there(mark: GenerationMark) -> None:
    await mark.renew(4, now_ms(), "")
    await mark.renew(5, now_ms(), "")
    assert not await mark.doubt(6), "not yet"
    assert not await mark.doubt(2), "driven again since"
    assert await mark.doubt(3)
    await mark.begin(6, now_ms(), lost=True)
    assert not await mark.doubt(5)


async def test_a_doubt_told_between_the_look_and_the_renewal_stays(mark: GenerationMark) -> None:
    """看的时候还好好的，正换着代次才有人说缺了：换过之后照旧是缺了。"""
    await mark.advance(3, 1, 10)
    seen = await mark.read()
    assert seen == RedisMark(3, 1, 10)
    assert await mark.doubt(3)
    await mark.renew(4, 20, "")
    assert await mark.read() == RedisMark(4, -1, 20)
    assert not await mark.advance(4, 2, 30)


async def test_a_renewal_keeps_the_mark(mark: GenerationMark) -> None:
    await mark.advance(3, 1, 10)
    await mark.renew(4, 20, "")
    assert await mark.read() == RedisMark(4, 1, 20)
    assert await mark.advance(4, 2, 30)
    assert await mark.read() == RedisMark(4, 2, 30)


async def test_nobody_replaces_a_single_redis(redis_server: RedisServer, key_prefix: str) -> None:
    async with redis_of(redis_server, key_prefix) as service:
        alone = GenerationMark(service.lean, service.keys)
        for masters in ("a", "b", "b"):
            assert not await alone.replaced(masters)


@pytest.mark.parametrize("where", ["redis7_server", "cluster_server"])
async def test_no_queue_of_another_database_outlives_its_takeover(
    where: str, request: pytest.FixtureRequest, key_prefix: str
) -> None:
    """分了区的、没有分的，连同附属的键。"""
    async with redis_of(request.getfixturevalue(where), key_prefix) as service:
        lean, keys = service.lean, service.keys
        queues = (*QueueKeys.of(keys, 3), *QueueKeys.others(keys, 3))
        names = [name for one in queues for name in astuple(one)]
        theirs = [*names, *(f"{name}:known" for name in names)]
        await lean.execute_many([("SET", name, 1) for name in theirs])
        assert await RedisClaim(lean, keys).take_over("ours", "n1", 1)
        assert await lean.values(theirs) == [None] * len(theirs)
