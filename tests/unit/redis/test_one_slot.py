"""一次调用只碰一个槽（决定 0018）：各段脚本、各种带几个键的命令，在 Cluster 模式的 Redis 上走一遍。

跨了槽的，服务器自己拒绝：脚本里没有声明的键也算（``tests/support/one_slot.py``）。信箱、在线状态、广播的
基本套件也在上面跑（``tests/support/engines.py``）。
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.resources import files

import pytest

from meeting_push.clock import now_ms
from meeting_push.contracts import Newcomer
from meeting_push.errors import RedisCommandError
from meeting_push.mailbox_model import Delivery
from meeting_push.model import ConnectionInfo, FailureCause
from meeting_push.node_identity import NodeIdentity
from meeting_push.redis.arrivals import Arrivals
from meeting_push.redis.bodies import Bodies
from meeting_push.redis.broadcast_log import BroadcastLog
from meeting_push.redis.claims import GenerationMark, RedisClaim
from meeting_push.redis.evictions import Evictions
from meeting_push.redis.group_reader import GroupReader
from meeting_push.redis.keys import QueueKeys
from meeting_push.redis.lean import Script
from meeting_push.redis.mailboxes import Mailboxes, MailboxLimits
from meeting_push.redis.meeting_bus import MeetingBus, Space, member_of
from meeting_push.redis.outcomes import Outcomes, Verdict
from meeting_push.redis.person_traces import PersonTraces
from meeting_push.redis.presence import PresenceStore, SeatRules, SeatStore
from meeting_push.redis.probe import RedisProbe
from meeting_push.redis.redis_service import RedisService
from meeting_push.redis.streams import QueueStreams
from meeting_push.redis.time_slots import USER_GRAINS, ActivityStore
from meeting_push.redis.withdrawals import Withdrawals
from meeting_push.supervision import Aside
from tests.support.one_slot import SlotLean
from tests.support.redis_server import RedisServer, redis_of
from tests.unit.presence.nodes import info

LUA = files("meeting_push.redis") / "lua"
HOUR_MS = 3_600_000
USERS = tuple(range(1, 41))
LIMITS = MailboxLimits(2, 100, HOUR_MS, 2 * HOUR_MS)


@pytest.fixture
async def slots(one_slot_server: RedisServer, key_prefix: str) -> AsyncIterator[RedisService]:
    async with redis_of(one_slot_server, key_prefix) as service:
        yield service


@pytest.fixture
def lean(slots: RedisService) -> SlotLean:
    assert isinstance(slots.lean, SlotLean)
    return slots.lean


async def test_the_server_refuses_a_script_that_crosses_slots(lean: SlotLean) -> None:
    """证明这个证明有牙：没有声明的键也查。"""
    text = b"redis.call('SET', 'a', 1) redis.call('SET', 'b', 1)"
    with pytest.raises(RedisCommandError, match="do not hash to the same slot"):
        await lean.execute("EVAL", text, 0)
    with pytest.raises(RedisCommandError, match="do not hash to the same slot"):
        await lean.execute("EVAL", text, 1, "a")


def delivery(message_id: str, users: tuple[int, ...], attempt: int = 0) -> Delivery:
    return Delivery(
        message_id=message_id,
        tail=b'"message_id":"%b"}' % message_id.encode(),
        recipient_ids=users,
        priority=0,
        expires_at=now_ms() + HOUR_MS,
        attempt=attempt,
    )


async def walk_mailboxes(redis: RedisService) -> None:
    boxes = Mailboxes(redis.lean, redis.keys, LIMITS)
    bodies = Bodies(redis.lean, redis.keys, 1_024, HOUR_MS)
    names = [f"message-{number}" for number in range(4)]
    until = now_ms() + HOUR_MS
    await bodies.store([(name, b"{}", number, until) for number, name in enumerate(names)])
    assert await bodies.priorities(names) == [0, 1, 2, 3]
    assert await bodies.load(names) == [b"{}"] * 4
    found = await boxes.deliver(
        [delivery(names[0], USERS), delivery(names[1], USERS[::-1])], publish=True
    )
    assert [[one.user_id for one in row] for row in found.rows] == [list(USERS), list(USERS[::-1])]
    assert {one.seq for one in found.rows[0]} == {1}
    assert {one.seq for one in found.rows[1]} == {2}
    full = await boxes.deliver([delivery(names[2], USERS)], publish=True, ahead=[("PING",)])
    assert (sorted(full.overfull), full.ahead) == (list(USERS), [b"PONG"])
    evictions = Evictions(redis.lean, redis.keys, LIMITS)
    assert await evictions.mark_evicted(1, [names[0]], now_ms(), {}) == [names[0]]
    assert (await evictions.overfull(1)).leaving == [names[0]]
    assert (await boxes.open(2, None)).seq == 3
    withdrawals = Withdrawals(redis.lean, redis.keys, boxes)
    assert sorted(await withdrawals.withdraw(names[3], b"}", USERS)) == list(USERS)
    await redis.lean.execute("HSET", redis.keys.delivery_status(names[3]), "total", 40)
    await withdrawals.record(names[3], USERS, now_ms())
    seats = SeatStore(redis.lean, redis.keys, NodeIdentity("n1"), SeatRules(2, "reject", HOUR_MS))
    log = BroadcastLog(
        redis.lean, redis.keys, log_ttl_ms=HOUR_MS, cursor_ttl_ms=HOUR_MS, aside=Aside("log")
    )
    arrivals = Arrivals(redis.lean, redis.keys, seats, boxes, log)
    for connection_id in ("a", "b"):
        assert await arrivals.open(Newcomer(7, connection_id, "phone", None), 0) is not None
    assert await seats.claim(7, "c", "phone") is None
    assert await log.append("m", b"}", priority=0, expires_at=until, now=now_ms()) > 0
    await log.cursor(8, 5, now_ms())
    await log.advance([(user_id, 9, 5) for user_id in USERS])


async def walk_outcomes(redis: RedisService) -> None:
    partitions = QueueKeys.of(redis.keys, 3)
    outcomes = Outcomes(redis.lean, redis.keys, HOUR_MS, partitions)
    boxes = Mailboxes(redis.lean, redis.keys, MailboxLimits(100, 100, HOUR_MS, 2 * HOUR_MS))
    names, now = [f"outcome-{number}" for number in range(5)], now_ms()
    pairs = [(name, user_id) for name in names for user_id in USERS]
    await boxes.deliver([delivery(name, USERS) for name in names], publish=False)
    for name in names:
        status = redis.keys.delivery_status(name)
        await redis.lean.execute("HSET", status, "expires_at", now + HOUR_MS, "priority", 3)
    claims = await outcomes.claim([(*pair, 0) for pair in pairs], 3, now)
    assert {one.verdict for one in claims} == {Verdict.CLAIMED}
    assert await outcomes.fail([(*pair, b"{}") for pair in pairs], "no_ack", now) == [1] * 200
    assert await outcomes.requeue([(*pair, 3, now + HOUR_MS, b"{}") for pair in pairs], now) == 200
    await outcomes.fail([(*pair, b"{}") for pair in pairs[:50]], "no_ack", now)
    rows = [(*pair, now, now) for pair in pairs]
    kinds = [one.kinds async for one in outcomes.confirm(rows)]
    assert sum(count for one in kinds for count in one.values()) == 200
    assert await redis.lean.execute("XLEN", redis.keys.dead_letter_queue) == 0
    await boxes.deliver([delivery("outcome-late", USERS)], publish=False)
    await outcomes.expire([("outcome-late", user_id, now) for user_id in USERS])
    assert all(await outcomes.reached([("outcome-late", user_id) for user_id in USERS]))
    assert "outcome-late" not in dict(await boxes.entries(1))


async def walk_queue(redis: RedisService) -> None:
    partitions = QueueKeys.of(redis.keys, 3)
    streams, now = QueueStreams(redis.lean, redis.keys, partitions), now_ms()
    await streams.delay({redis.keys.delayed_queue: [1, b'9{"message_id":"stray"}']})
    assert await streams.move_due(now, 10, live=10, max_length=100, bulk_room=100) == 1
    hand = GroupReader(redis.lean, "c1")
    for keys in partitions:
        await hand.create_groups(keys.streams)
        assert await streams.append({keys.delivery: [b"a", b"b", b"c", b"d"]}, 100)
        taken = dict(await hand.read(10, keys.streams))
        items = taken[keys.delivery.encode()]
        digests = [fields[fields.index(b"d") + 1] for _, fields in items]
        held = [(item[0], digest) for item, digest in zip(items, digests, strict=True)]
        await streams.finish({keys.delivery: held[:1]})
        await streams.bury(keys.delivery, *held[1], b"b", "why")
        await streams.postpone(keys.delivery, *held[2], b"0c", now)
        assert len(await hand.claim(keys.delivery, 0, 10)) >= 1
    await streams.retire("c2")
    await streams.cancel("stray", now, now)
    assert await streams.lengths(now)
    await streams.clear()


def gone(connection_id: str) -> tuple[str, FailureCause]:
    return connection_id, FailureCause.NETWORK


async def walk_presence(redis: RedisService) -> None:
    here = PresenceStore(redis.lean, redis.keys, NodeIdentity("n1"), HOUR_MS)
    there = PresenceStore(redis.lean, redis.keys, NodeIdentity("n2"), HOUR_MS)
    now = now_ms()
    for store in (here, there):
        await store.renew_lease(20_000, now)
    own: list[tuple[int, str, ConnectionInfo]] = [(i, "a", info("a", node="n1")) for i in USERS]
    other = [(i, "b", info("b", node="n2")) for i in USERS]
    assert len(await here.apply(own, now)) == len(USERS)
    assert await there.apply(other, now) == []
    assert await here.missing([(i, "a") for i in USERS]) == []
    assert await here.apply([(i, *gone("a")) for i in USERS], now) == []
    await there.drop_lease()
    reaped = await here.reap("n2")
    assert (reaped.removed, reaped.left, reaped.last) == (len(USERS), 0, True)
    assert {turn.user_id for turn in reaped.turned if not turn.online} == set(USERS)
    assert await here.candidates(now) == []


async def walk_the_rest(redis: RedisService) -> None:
    now = now_ms()
    mark, claim = GenerationMark(redis.lean, redis.keys), RedisClaim(redis.lean, redis.keys)
    await mark.begin(1, now, lost=False)
    assert await mark.advance(1, 5, now)
    assert await mark.doubt(1)
    assert await claim.hold("db", "n1", 10_000) == "db"
    await RedisProbe(redis, NodeIdentity("n1"), delivers=True).check()
    activity = ActivityStore(redis.lean, redis.keys)
    await activity.note_users(USERS, USER_GRAINS, now)
    assert (await activity.active(now))["30d"] == pytest.approx(len(USERS), rel=0.05)
    meetings = MeetingBus(redis.address, redis.keys, ttl_ms=10_000)
    meetings._lean = redis.lean
    assert await meetings.enter("m", member_of(7, "c", "Ann"), Space(10, 10)) == {7: "Ann"}
    traces = PersonTraces(redis.lean, redis.keys, QueueKeys.of(redis.keys, 3))
    await traces.forget_keys(1)
    await traces.forget_origins(1)
    await traces.forget_queued(1)
    assert await claim.take_over("other", "n1", 1)


@pytest.mark.timeout(120)
async def test_every_script_and_every_command_touches_one_slot(
    slots: RedisService, lean: SlotLean
) -> None:
    await walk_queue(slots)
    await walk_mailboxes(slots)
    await walk_outcomes(slots)
    await walk_presence(slots)
    await walk_the_rest(slots)
    shipped = {file.name.removesuffix(".lua") for file in LUA.iterdir()}
    run = {name for name in shipped if any(Script(name).text in text for text in lean.scripts)}
    assert shipped - run == set(), "scripts that were not walked"
    assert {"MGET", "UNLINK", "ZINTER", "PFCOUNT", "XREADGROUP"} <= lean.verbs
