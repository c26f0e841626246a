"""到 Cluster 的连接：分到各主，次序照旧；槽搬走、主换了、主挂着，谁也不必重启。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from meeting_push.errors import RedisCommandError, RedisUnavailableError
from meeting_push.redis import cluster, masters
from meeting_push.redis.address import RedisAddress
from meeting_push.redis.cluster import ClusterConnection, lean_connection
from meeting_push.redis.keys import Keys
from meeting_push.redis.lean import LeanConnection, Script
from meeting_push.redis.slot_map import SLOTS, slot_of
from meeting_push.redis.subscriber import Subscriber
from tests.support.clusters import ClusterServer, ClusterSite, redis7_cluster
from tests.support.eventually import eventually
from tests.support.redis_server import find_redis7

pytestmark = pytest.mark.timeout(240)

USERS = range(300)
#: 收件人的键都在不同的槽。
_probe = Script("probe")


def address_of(site: ClusterSite) -> RedisAddress:
    return RedisAddress(cluster=tuple(("127.0.0.1", one.port) for one in site.first_masters))


@pytest.fixture(params=["cluster_site", "embedded_cluster_site"])
def site(request: pytest.FixtureRequest) -> ClusterSite:
    found: ClusterSite = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def lean(site: ClusterSite) -> AsyncIterator[LeanConnection]:
    connection = lean_connection(address_of(site))
    await connection.connect()
    yield connection
    await connection.close()


async def test_a_batch_over_every_master_is_answered_in_order(
    lean: LeanConnection, key_prefix: str, site: ClusterSite
) -> None:
    keys = [f"{key_prefix}{{{user}}}" for user in USERS]
    assert await lean.execute_many([("SET", key, n) for n, key in enumerate(keys)]) == [b"OK"] * 300
    assert await lean.values(keys) == [b"%d" % n for n in USERS]
    each = await asyncio.gather(*(lean.execute("GET", key) for key in keys))
    assert each == [b"%d" % n for n in USERS]
    sizes = await lean.everywhere("DBSIZE")
    assert len(sizes) == 3
    assert all(sizes)
    await lean.unlink(keys)
    assert await lean.values(keys) == [None] * 300
    assert await lean.execute_many([]) == []


async def test_a_scan_walks_every_master(lean: LeanConnection, key_prefix: str) -> None:
    keys = {f"{key_prefix}{{{user}}}".encode() for user in USERS}
    await lean.execute_many([("SET", key, 1) for key in keys])
    found: set[bytes] = set()
    cursor = b"0"
    while True:
        cursor, some = await lean.execute("SCAN", cursor, "MATCH", f"{key_prefix}*", "COUNT", 50)
        found.update(some)
        if cursor == b"0":
            break
    assert found == keys


async def test_rows_are_called_together_slot_by_slot(lean: LeanConnection, key_prefix: str) -> None:
    tags = [n % 7 for n in range(21)]
    groups = lean.together(21, lambda at: (f"{key_prefix}{{{tags[at]}}}:{at}",))
    assert sorted(at for some, _ in groups for at in some) == list(range(21))
    assert all(len({slot_of(key) for key in keys}) == 1 for _, keys in groups)
    assert len(groups) == 7


async def test_a_refusal_is_in_its_place_or_is_raised(
    lean: LeanConnection, key_prefix: str
) -> None:
    keys = [f"{key_prefix}{{{user}}}" for user in range(9)]
    await lean.execute("SET", keys[4], "text")
    pushed = await lean.execute_many([("RPUSH", key, "x") for key in keys], tolerant=True)
    assert isinstance(pushed[4], RedisCommandError)
    assert pushed[:4] + pushed[5:] == [1] * 8
    with pytest.raises(RedisCommandError, match="WRONGTYPE"):
        await lean.execute_many([("RPUSH", key, "x") for key in keys])
    with pytest.raises(RedisCommandError, match="WRONGTYPE"):
        await lean.execute("RPUSH", keys[4], "x")


async def test_a_script_is_loaded_into_each_master(
    lean: LeanConnection, key_prefix: str, site: ClusterSite
) -> None:
    keys = Keys(key_prefix)
    nodes = lean.one_each(lambda n: keys.probe(f"node-{n}"))
    assert len({site.owner_of(slot_of(name)) for name in nodes}) == 3
    names = [name.partition("{")[2].removesuffix("}") for name in nodes]
    for server in site.servers:
        site.ask(server, "SCRIPT", "FLUSH")
    calls = [((keys.probe(one), keys.probe_queue(one)), (60_000, "")) for one in names]
    assert len(await _probe.run_all(lean, calls)) == 3


async def test_a_cancelled_caller_does_not_shift_the_replies(
    lean: LeanConnection, key_prefix: str
) -> None:
    key = f"{key_prefix}{{1}}"
    first, second = lean.execute("SET", key, 1), lean.execute("GET", key)
    first.cancel()
    assert await second == b"1"


async def test_what_one_node_publishes_the_subscriber_of_another_hears(
    lean: LeanConnection, key_prefix: str, site: ClusterSite
) -> None:
    heard: list[bytes] = []
    subscribers = []
    for _ in range(6):  # 各连着随便哪个主
        subscriber = Subscriber(address_of(site), Keys(key_prefix))
        await subscriber.start(lambda _channel, payload: heard.append(payload), lambda: None)
        await subscriber.subscribe(7)
        subscribers.append(subscriber)
    channel = Keys(key_prefix).user_channel(7)
    for n in range(5):
        await lean.execute("PUBLISH", channel, n)
    await eventually(lambda: len(heard) == 30, 30)
    assert heard[:1] == [b"0"]
    for subscriber in subscribers:
        await subscriber.close()


async def test_a_closed_one_refuses(site: ClusterSite) -> None:
    connection = lean_connection(address_of(site))
    with pytest.raises(RedisUnavailableError):
        connection.execute("GET", "x")
    await connection.connect()
    assert connection.connected
    await connection.close()
    await connection.close()
    assert not connection.connected
    with pytest.raises(RedisUnavailableError):
        connection.execute_many([("GET", "x")])


async def test_slots_without_a_master_are_not_a_connection(tmp_path: Path) -> None:
    binary = find_redis7()
    if binary is None:
        pytest.skip("no redis-server >= 7 on PATH")
    site = ClusterSite(binary, tmp_path, covered=16_000)
    site.start()
    try:
        with pytest.raises(RedisUnavailableError, match="without a master") as caught:
            await lean_connection(address_of(site)).connect()
        assert caught.value.cause == "cluster_down"
    finally:
        site.stop()


# ── 变故 ─────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def shaken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSite]:
    """三主三副本，这个文件里可以搬、可以杀。"""
    directory = tmp_path_factory.mktemp("shaken")
    yield from redis7_cluster(directory, replicas=1, node_timeout_ms=2_000)


@pytest.fixture
async def through(shaken: ClusterSite) -> AsyncIterator[ClusterConnection]:
    shaken.whole()
    connection = ClusterConnection(address_of(shaken), timeout_s=60)
    await connection.connect()
    yield connection
    await connection.close()


async def test_a_master_that_answers_late_has_its_slots_once_it_does(
    site: ClusterSite, lean: ClusterConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """提升的副本忙着，比等它的久：连上之后不再问一遍图，它的槽也有主。"""
    monkeypatch.setattr(masters, "IDLE_S", 600)
    monkeypatch.setattr(masters, "HURRY_S", 600)
    monkeypatch.setattr(masters, "ANSWER_S", 0.05)
    known, (node, *_) = lean.masters, lean.masters._map.masters
    server = next(one for one in site.servers if one.port == node[1])
    await known._masters.pop(node).close()
    server.pause()
    await known._take(known._map)
    assert not known.connected
    server.resume()
    await eventually(lambda: known.connected, 60)
    assert None not in [known.owner(slot) for slot in range(SLOTS)]
    assert len(lean.one_each(str)) == len(known._map.masters)


async def test_a_master_without_a_slot_is_not_waited_for(lean: ClusterConnection) -> None:
    """图还说它是主，槽已经都指到别处了：数名字的不能永远数下去。"""
    known, (emptied, other, *_) = lean.masters, lean.masters._map.masters
    there = await known.reach(other)
    for slot in range(SLOTS):
        if known._owners[slot] is known._masters[emptied]:
            known._owners[slot] = there
    assert len(lean.one_each(str)) == len(known._map.masters) - 1


def elsewhere(site: ClusterSite, slot: int) -> tuple[ClusterServer, ClusterServer]:
    here = site.owner_of(slot)
    return here, next(one for one in site.masters if one is not here)


async def test_a_slot_that_moves_under_load_is_followed(
    shaken: ClusterSite, through: ClusterConnection, key_prefix: str
) -> None:
    """每一次加一都只有一次，谁也没有得到错误。"""
    key, moving = f"{key_prefix}{{moving}}", asyncio.Event()
    counted = 0

    async def count() -> None:
        nonlocal counted
        while not moving.is_set():
            assert await through.execute("INCR", key) == counted + 1
            counted += 1

    def beyond(before: int) -> bool:
        return counted > before or counting.done()

    counting = asyncio.create_task(count())
    for _ in range(4):
        _, there = elsewhere(shaken, slot_of(key))
        await asyncio.to_thread(shaken.move_slot, slot_of(key), there)
        await eventually(partial(beyond, counted), 60)
    moving.set()
    await counting
    assert await through.execute_many([("GET", key), ("DEL", key)]) == [b"%d" % counted, 1]


async def test_a_slot_half_moved_is_asked_for_or_waited_for(
    shaken: ClusterSite, through: ClusterConnection, key_prefix: str
) -> None:
    a, b = f"{key_prefix}{{half}}a", f"{key_prefix}{{half}}b"
    slot = slot_of(a)
    here, there = elsewhere(shaken, slot)
    await through.execute("MSET", a, 1, b, 2)
    shaken.begin_moving(slot, here, there)
    shaken.move_keys(slot, here, there, only=[a])
    assert await through.execute("GET", a) == b"1"  # ASK
    assert await through.execute("GET", b) == b"2"
    both = through.execute("MGET", a, b)  # TRYAGAIN
    shaken.move_keys(slot, here, there)
    shaken.end_moving(slot, there)
    assert await both == [b"1", b"2"]


async def test_in_a_batch_only_what_moved_goes_on(
    shaken: ClusterSite,
    through: ClusterConnection,
    key_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """别的已有回答，各在自己的位置上；调用者的列表可以接着用。"""
    monkeypatch.setattr(cluster, "MOST_AGAIN", 10_000)
    a, b = f"{key_prefix}{{part}}a", f"{key_prefix}{{part}}b"
    others = [f"{key_prefix}{{{user}}}" for user in range(9)]
    slot = slot_of(a)
    here, there = elsewhere(shaken, slot)
    await through.execute("MSET", a, 1, b, 2)
    shaken.begin_moving(slot, here, there)
    shaken.move_keys(slot, here, there, only=[a])
    commands = [("GET", a), ("MGET", a, b), ("RPUSH", b, "x"), *(("SET", one, 3) for one in others)]
    answers = through.execute_many(commands, tolerant=True)
    commands.clear()
    await asyncio.to_thread(shaken.move_keys, slot, here, there)
    await asyncio.to_thread(shaken.end_moving, slot, there)
    first, both, refused, *rest = await answers
    assert (first, both, rest) == (b"1", [b"1", b"2"], [b"OK"] * 9)
    assert isinstance(refused, RedisCommandError)
    await asyncio.to_thread(shaken.move_slot, slot, here)
    moved = await through.execute_many([("GET", one) for one in (b, *others, a)])  # MOVED
    assert moved == [b"2", *[b"3"] * 9, b"1"]


async def test_a_slot_that_stays_half_moved_is_a_temporary_error(
    shaken: ClusterSite,
    through: ClusterConnection,
    key_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "AGAIN_S", 0.001)
    a, b = f"{key_prefix}{{stuck}}a", f"{key_prefix}{{stuck}}b"
    slot = slot_of(a)
    here, there = elsewhere(shaken, slot)
    await through.execute("MSET", a, 1, b, 2)
    shaken.begin_moving(slot, here, there)
    shaken.move_keys(slot, here, there, only=[a])
    with pytest.raises(RedisUnavailableError) as caught:
        await through.execute_many([("GET", f"{key_prefix}fine"), ("MGET", a, b)], tolerant=True)
    assert caught.value.cause == "cluster_down"
    shaken.move_keys(slot, here, there)
    shaken.end_moving(slot, there)


@pytest.mark.parametrize("hung", [False, True], ids=["killed", "hung"])
async def test_a_promoted_replica_is_found_without_a_restart(
    shaken: ClusterSite, through: ClusterConnection, key_prefix: str, hung: bool
) -> None:
    """挂着的：一条命令可以等 60 秒，连接自己发现不了；要由别的主说。"""
    key = f"{key_prefix}{{who}}"
    slot = slot_of(key)
    await through.execute("SET", key, 1)
    dead, before = shaken.owner_of(slot), through.reconnects
    if hung:
        dead.pause()
        waiting = through.execute("GET", key)
    else:
        dead.kill()

    def follows() -> bool:
        owner = through.masters.owner(slot)
        return through.connected and owner is not None and owner.node[1] != dead.port

    try:
        await asyncio.to_thread(shaken.promoted, dead, slot)
        await eventually(follows, 60)
        await through.execute("SET", key, 2)
        assert through.reconnects > before
        if hung:
            with pytest.raises(RedisUnavailableError):
                await waiting
    finally:  # 别的测试也用它
        (dead.resume if hung else dead.start)()
    assert await through.execute("GET", key) == b"2"
    await asyncio.to_thread(shaken.whole)
