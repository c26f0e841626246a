"""一个主一次的脚本（``here.lua``，决定 0018）：几个槽的几行一次做。

槽正在搬的那一次什么也没做，一个槽一次再来。
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from meeting_push.clock import now_ms
from meeting_push.mailbox_model import Delivery
from meeting_push.model import ConnectionInfo
from meeting_push.node_identity import NodeIdentity
from meeting_push.redis.bodies import Bodies
from meeting_push.redis.broadcast_log import BroadcastLog
from meeting_push.redis.keys import Keys
from meeting_push.redis.lean import LeanConnection, Script
from meeting_push.redis.mailboxes import CALL_RECIPIENTS, Mailboxes, MailboxLimits
from meeting_push.redis.outcomes import Outcomes
from meeting_push.redis.presence import PresenceStore
from meeting_push.redis.slot_map import slot_of
from meeting_push.supervision import Aside
from tests.support.clusters import ClusterServer, ClusterSite, running_cluster
from tests.support.eventually import eventually, wait_until
from tests.support.redis_server import find_embedded_redis, find_redis7, redis_of
from tests.unit.presence.nodes import info

pytestmark = pytest.mark.timeout(240)

HOUR_MS = 3_600_000
LIMITS = MailboxLimits(1_000, 1_000, HOUR_MS, 2 * HOUR_MS)
USERS = tuple(range(1, 61))


@pytest.fixture(scope="module", params=[find_redis7, find_embedded_redis], ids=["redis7", "valkey"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterSite]:
    """两个主，这个文件里可以搬。"""
    binary = request.param()
    if binary is None:
        pytest.skip("no such server here")
    yield from running_cluster(ClusterSite(binary, tmp_path_factory.mktemp("two"), masters=2))


@pytest.fixture
async def lean(site: ClusterSite) -> AsyncIterator[LeanConnection]:
    async with redis_of(site.servers[0]) as service:
        yield service.lean


@pytest.fixture
def keys(key_prefix: str) -> Keys:
    return Keys(key_prefix, tagged=True)


@pytest.fixture
def boxes(lean: LeanConnection, keys: Keys) -> Mailboxes:
    return Mailboxes(lean, keys, LIMITS)


def delivery(message_id: str, users: Sequence[int] = USERS) -> Delivery:
    return Delivery(
        message_id=message_id,
        tail=b'"message_id":"%b"}' % message_id.encode(),
        recipient_ids=tuple(users),
        priority=0,
        expires_at=now_ms() + HOUR_MS,
        attempt=0,
    )


def calls(site: ClusterSite) -> list[int]:
    """各主至今做过几次脚本。"""
    each = [site.client(one).info("commandstats") for one in site.masters]
    return [one.get("cmdstat_evalsha", {"calls": 0})["calls"] for one in each]


def sides(site: ClusterSite, slot: int) -> tuple[ClusterServer, ClusterServer]:
    here = site.owner_of(slot)
    return here, next(one for one in site.masters if one is not here)


async def refused(server: ClusterServer, site: ClusterSite) -> None:
    """等到它说了一次 TRYAGAIN：几个键一半在这里，或都还没有。"""

    def told() -> int:
        errors = site.client(server).info("errorstats")
        return int(errors.get("errorstat_TRYAGAIN", {"count": 0})["count"])

    before = told()
    await eventually(lambda: told() > before, 60)


async def test_a_batch_is_one_call_of_each_master(site: ClusterSite, boxes: Mailboxes) -> None:
    await boxes.deliver([delivery("first")], publish=True)
    before = calls(site)
    done = await boxes.deliver([delivery("a"), delivery("b", USERS[::-1])], publish=True)
    assert [now - was for now, was in zip(calls(site), before, strict=True)] == [1, 1]
    assert [[one.user_id for one in row] for row in done.rows] == [list(USERS), list(USERS[::-1])]
    assert {one.seq for one in done.rows[0]} == {2}
    assert {one.seq for one in done.rows[1]} == {3}


async def test_the_priorities_of_a_mailbox_are_one_call_of_each_master(
    site: ClusterSite, lean: LeanConnection, keys: Keys
) -> None:
    bodies, until = Bodies(lean, keys, 1_024, HOUR_MS), now_ms() + HOUR_MS
    names = [f"message-{n}" for n in range(40)]
    await bodies.store([(name, b"{}", n % 3, until) for n, name in enumerate(names)])
    await bodies.priorities(names)
    before = calls(site)
    assert await bodies.priorities([*names, "none"]) == [*(n % 3 for n in range(40)), None]
    assert [now - was for now, was in zip(calls(site), before, strict=True)] == [1, 1]
    slot = slot_of(keys.message_body(names[0]))
    here, there = sides(site, slot)
    site.begin_moving(slot, here, there)
    site.move_keys(slot, here, there)
    assert await bodies.priorities(names) == [n % 3 for n in range(40)]
    site.end_moving(slot, there)


async def test_many_recipients_are_answered_in_their_order(
    lean: LeanConnection, keys: Keys
) -> None:
    """一个主要几次调用；各人先前有的不一样多。"""
    boxes = Mailboxes(lean, keys, LIMITS)
    users = range(1, 3 * CALL_RECIPIENTS)
    await boxes.deliver([delivery("odd", [user for user in users if user % 2])], publish=False)
    found = await boxes.deliver([delivery("all", users)], publish=True)
    assert [(one.user_id, one.seq) for one in found.rows[0]] == [(n, 1 + n % 2) for n in users]


@pytest.mark.parametrize("moved", ["nothing", "some", "everything"])
async def test_dlv_1_who_is_half_moved_is_delivered_to_once(
    site: ClusterSite, boxes: Mailboxes, keys: Keys, moved: str
) -> None:
    """他的键一个也没搬、搬了一个、搬完了而槽还没有：他与同批的别人各得到一条。"""
    slot = slot_of(keys.mailbox(USERS[0]))
    await boxes.deliver([delivery("before")], publish=True)
    here, there = sides(site, slot)
    site.begin_moving(slot, here, there)
    if moved == "some":
        site.move_keys(slot, here, there, only=[keys.mailbox(USERS[0])])
    elif moved == "everything":
        site.move_keys(slot, here, there)
    delivering = asyncio.create_task(boxes.deliver([delivery("during")], publish=True))
    if moved == "some":
        await refused(here, site)
        await asyncio.to_thread(site.move_keys, slot, here, there)
    done = await delivering
    site.move_keys(slot, here, there)
    site.end_moving(slot, there)
    assert [(one.user_id, one.seq) for one in done.rows[0]] == [(user, 2) for user in USERS]
    for user in USERS:
        assert await boxes.entries(user) == [("before", 1), ("during", 2)]


async def test_who_is_new_in_a_slot_that_moves_is_delivered_to(
    site: ClusterSite, boxes: Mailboxes, keys: Keys
) -> None:
    """他一个键也没有：只能写到搬去的那一边。"""
    slot = slot_of(keys.mailbox(USERS[0]))
    here, there = sides(site, slot)
    site.begin_moving(slot, here, there)
    delivering = asyncio.create_task(boxes.deliver([delivery("during")], publish=True))
    await refused(there, site)
    await asyncio.to_thread(site.end_moving, slot, there)
    done = await delivering
    assert [(one.user_id, one.seq) for one in done.rows[0]] == [(user, 1) for user in USERS]
    for user in USERS:
        assert await boxes.entries(user) == [("during", 1)]


async def test_dlv_4_acks_of_a_message_that_moves_are_recorded(
    site: ClusterSite, lean: LeanConnection, keys: Keys
) -> None:
    outcomes = Outcomes(lean, keys, HOUR_MS)
    now, names = now_ms(), [f"message-{n}" for n in range(20)]
    for name in names:
        await lean.execute("HSET", keys.delivery_status(name), "expires_at", now + HOUR_MS)
    slot = slot_of(keys.delivery_status(names[0]))
    here, there = sides(site, slot)
    site.begin_moving(slot, here, there)
    site.move_keys(slot, here, there)
    rows = [(name, user, now, now) for name in names for user in USERS]
    chunks = [one async for one in outcomes.confirm(rows)]
    site.end_moving(slot, there)
    assert sum(sum(one.kinds.values()) for one in chunks) == len(rows)
    for name in names:
        assert await outcomes.unconfirmed(USERS[0], [name]) == []


async def test_con_2_who_comes_while_his_slot_moves_is_online(
    site: ClusterSite, lean: LeanConnection, keys: Keys
) -> None:
    store, now = PresenceStore(lean, keys, NodeIdentity("n1"), HOUR_MS), now_ms()
    await store.renew_lease(HOUR_MS, now)
    coming: list[tuple[int, str, ConnectionInfo]] = [(i, "a", info("a", node="n1")) for i in USERS]
    slot = slot_of(keys.online_user(USERS[0]))
    here, there = sides(site, slot)
    site.begin_moving(slot, here, there)
    writing = asyncio.create_task(store.apply(coming, now))
    await refused(there, site)
    await asyncio.to_thread(site.end_moving, slot, there)
    turned = await writing
    assert sorted(turn.user_id for turn in turned if turn.online) == list(USERS)
    assert await store.missing([(i, "a") for i in USERS]) == []


async def test_dlv_4_a_cursor_that_moves_is_advanced(
    site: ClusterSite, lean: LeanConnection, keys: Keys
) -> None:
    aside = Aside("log")
    log = BroadcastLog(lean, keys, log_ttl_ms=HOUR_MS, cursor_ttl_ms=HOUR_MS, aside=aside)
    slot = slot_of(keys.broadcast_cursor(USERS[0]))
    here, there = sides(site, slot)
    site.begin_moving(slot, here, there)
    await log.advance([(user, 9, 0) for user in USERS])
    site.end_moving(slot, there)
    for user in USERS:
        assert await log.cursor(user, 0, now_ms()) == (9, set())


def move_at_once(site: ClusterSite, slot: int, to: ClusterServer) -> None:
    """Valkey 9 起的整段搬（写入随着过去，最后一下换主）。"""
    source = site.owner_of(slot)
    if source is to:
        return
    if not site.client(source).info("server").get("valkey_version", "").startswith("9."):
        pytest.skip("no atomic slot migration here")
    asked = ("SLOTSRANGE", slot, slot, "NODE", site.id_of(to))
    site.ask(source, "CLUSTER", "MIGRATESLOTS", *asked)

    def over() -> bool:
        [latest, *_] = site.ask(source, "CLUSTER", "GETSLOTMIGRATIONS")
        assert latest["state"] != "failed", latest
        return bool(latest["state"] == "success")

    wait_until(over, 60)


@pytest.mark.parametrize("move", [ClusterSite.move_slot, move_at_once])
async def test_dlv_1_a_slot_that_moves_under_load_loses_nothing(
    site: ClusterSite, boxes: Mailboxes, keys: Keys, move: Any
) -> None:
    """每一条每人恰好一个号，一个接一个。"""
    slot = slot_of(keys.mailbox(USERS[0]))
    over, names = asyncio.Event(), list[str]()

    async def deliver() -> None:
        while not over.is_set():
            names.append(f"m-{len(names):06}")
            [row] = (await boxes.deliver([delivery(names[-1])], publish=True)).rows
            assert {one.seq for one in row} == {len(names)}

    def beyond(before: int) -> bool:
        return len(names) > before or delivering.done()

    delivering = asyncio.create_task(deliver())
    for _ in range(4):
        _, there = sides(site, slot)
        await asyncio.to_thread(move, site, slot, there)
        await eventually(partial(beyond, len(names)), 60)
    over.set()
    await delivering
    last = list(enumerate(names, 1))[-LIMITS.mailbox_max_entries :]
    for user in USERS:
        held = await boxes.entries(user)
        assert held[-len(last) :] == [(name, seq) for seq, name in last]


def test_a_script_that_looks_first_refuses_before_it_writes() -> None:
    """看在前，写在后：``elsewhere`` 之后没有一处再看。"""
    for name in ("deliver", "confirm", "presence", "broadcast_ack", "body_heads"):
        text = Script(name).text.decode()
        assert text.count("elsewhere(") == 1
