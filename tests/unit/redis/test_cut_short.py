"""从前一步的，如今几步（决定 0018）：死在任何两步之间什么也不丢，再来一遍的结局与一口气做完的一样。

各操作在每一次写出之前各断一次，先看断了的样子，再来一遍。
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from meeting_push.clock import now_ms
from meeting_push.errors import RedisUnavailableError
from meeting_push.mailbox_model import Delivery
from meeting_push.model import ConnectionInfo, FailureCause
from meeting_push.node_identity import NodeIdentity
from meeting_push.redis.bodies import OVER_LINGERS_MS
from meeting_push.redis.keys import QueueKeys
from meeting_push.redis.lean import LeanConnection
from meeting_push.redis.link import Argument, Command
from meeting_push.redis.mailboxes import Mailboxes, MailboxLimits
from meeting_push.redis.outcomes import Outcomes, Verdict
from meeting_push.redis.presence import PresenceStore
from meeting_push.redis.redis_service import RedisService
from meeting_push.redis.streams import QueueStreams
from tests.support.redis_server import RedisServer
from tests.unit.presence.nodes import info

HOUR_MS = 3_600_000
NOW = now_ms()
Work = Callable[[int], Awaitable[object]]


class Mortal(LeanConnection):
    """``left``：再写出这么多次就死；None：不死。"""

    left: int | None = None

    def execute(self, *args: Argument) -> asyncio.Future[Any]:
        self._step()
        return super().execute(*args)

    def execute_many(
        self, commands: Sequence[Sequence[Argument]], *, tolerant: bool = False
    ) -> asyncio.Future[list[Any]]:
        self._step()
        return super().execute_many(commands, tolerant=tolerant)

    def _step(self) -> None:
        if self.left is not None:
            if self.left == 0:
                raise RedisUnavailableError("killed here")
            self.left -= 1


@pytest.fixture
async def redis(redis_server: RedisServer, key_prefix: str) -> AsyncIterator[RedisService]:
    service = redis_server.service(key_prefix)
    service.lean = Mortal(service.address)
    await service.start()
    yield service
    await service.close()


async def cut_everywhere(redis: RedisService, prepare: Work, work: Work, half: Work) -> int:
    """``work`` 断在第 0、1、2 … 次写出之前，直到做得完；各看一眼 ``half``，再来一遍。返回几处。"""
    lean = redis.lean
    assert isinstance(lean, Mortal)
    for cut in itertools.count():
        await prepare(cut)
        lean.left = cut
        try:
            await work(cut)
            done = True
        except RedisUnavailableError:
            done = False
        lean.left = None
        await half(cut)
        await work(cut)
        if done:
            return cut
    raise AssertionError("endless")


class Site:
    """``cut`` 既是第几处，也是收件人：各用各的键。"""

    def __init__(self, redis: RedisService) -> None:
        self.redis, self.lean, self.keys = redis, redis.lean, redis.keys
        self.boxes = Mailboxes(self.lean, self.keys, MailboxLimits(100, 100, HOUR_MS, 2 * HOUR_MS))
        self.outcomes = Outcomes(self.lean, self.keys, HOUR_MS)

    async def deliver(self, cut: int) -> None:
        await self.boxes.deliver([delivery(cut)], publish=False)
        fields = ("expires_at", NOW + HOUR_MS, "priority", 3)
        await self.lean.execute("HSET", self.keys.delivery_status(name(cut)), *fields)

    async def fail(self, cut: int) -> None:
        await self.outcomes.fail([(name(cut), cut + 1, entry(cut))], "no_ack", NOW)

    async def in_mailbox(self, cut: int) -> bool:
        return name(cut) in dict(await self.boxes.entries(cut + 1))

    async def letters(self, cut: int) -> int:
        found = await self.lean.execute("XRANGE", self.keys.dead_letter_queue, "-", "+")
        return sum(entry(cut) in fields for _, fields in found)

    async def delayed(self, cut: int) -> int:
        members = await self.lean.execute("ZRANGE", self.keys.delayed_queue, 0, -1)
        return sum(name(cut).encode() in member for member in members)

    async def state(self, cut: int) -> str:
        status = self.keys.delivery_status(name(cut))
        found = await self.lean.execute("HGET", status, f"u:{cut + 1}")
        return (found or b"").decode()

    async def count(self, cut: int, field: str) -> int:
        found = await self.lean.execute("HGET", self.keys.delivery_status(name(cut)), field)
        return int(found or 0)


def name(cut: int) -> str:
    return f"message-{cut:03d}"


def entry(cut: int) -> bytes:
    return b'{"message_id":"%b"}' % name(cut).encode()


def delivery(cut: int) -> Delivery:
    return Delivery(
        message_id=name(cut),
        tail=b'"message_id":"x"}',
        recipient_ids=(cut + 1,),
        priority=3,
        expires_at=NOW + HOUR_MS,
    )


async def test_dlv_1_a_failure_is_never_without_a_letter(redis: RedisService) -> None:
    site = Site(redis)

    async def half(cut: int) -> None:
        assert await site.in_mailbox(cut) or await site.letters(cut)

    last = await cut_everywhere(redis, site.deliver, site.fail, half)
    assert last >= 3
    for cut in range(last + 1):
        assert (await site.state(cut)).startswith("failed:")
        assert (await site.count(cut, "failed"), await site.in_mailbox(cut)) == (1, False)
        assert 1 <= await site.letters(cut) <= 2, "a letter more, never one less"


async def test_dlv_1_a_requeued_one_is_in_the_queue_or_still_a_letter(redis: RedisService) -> None:
    site = Site(redis)

    async def prepare(cut: int) -> None:
        await site.deliver(cut)
        await site.fail(cut)

    async def work(cut: int) -> None:
        row = (name(cut), cut + 1, 3, NOW + HOUR_MS, entry(cut))
        await site.outcomes.requeue([row], NOW)

    async def half(cut: int) -> None:
        assert await site.letters(cut) or await site.delayed(cut)

    last = await cut_everywhere(redis, prepare, work, half)
    assert last >= 4
    for cut in range(last + 1):
        assert (await site.delayed(cut), await site.letters(cut)) == (1, 0)
        assert (await site.state(cut), await site.count(cut, "failed")) == ("", 0)
        [[again]] = (await site.boxes.deliver([delivery(cut)], publish=False)).rows
        assert (again.seq, again.acked) == (2, False)


async def test_dlv_4_a_late_ack_takes_letter_and_tombstone_back(redis: RedisService) -> None:
    site = Site(redis)

    async def prepare(cut: int) -> None:
        await site.deliver(cut)
        await site.fail(cut)
        await site.lean.execute("ZADD", site.keys.evicted_messages(cut + 1), 1, name(cut))

    async def work(cut: int) -> None:
        async for _ in site.outcomes.confirm([(name(cut), cut + 1, NOW, NOW)]):
            pass

    async def half(cut: int) -> None:
        state = await site.state(cut)
        assert state.startswith(("delivered", "failed"))

    last = await cut_everywhere(redis, prepare, work, half)
    assert last >= 3
    for cut in range(last + 1):
        assert (await site.state(cut)).startswith("delivered:")
        counts = [await site.count(cut, field) for field in ("failed", "delivered")]
        assert (counts, await site.letters(cut)) == ([0, 1], 0)
        graves = site.keys.evicted_messages(cut + 1)
        assert await site.lean.execute("ZCARD", graves) == 0


async def test_the_status_leaves_in_the_step_that_confirms_the_last_one(
    redis: RedisService,
) -> None:
    """对谁都完结了：状态的期限与那个确认是一步；正文的随后哪次写出带上都行，没有带上就活到过期。"""
    site = Site(redis)
    leaving: list[Command] = []

    async def prepare(cut: int) -> None:
        await site.deliver(cut)
        status = site.keys.delivery_status(name(cut))
        await site.lean.execute("HSET", status, "total", 1)
        await site.lean.execute("PEXPIRE", status, 2 * OVER_LINGERS_MS)

    async def work(cut: int) -> None:
        row = (name(cut), cut + 1, NOW, NOW)
        leaving.extend([c async for one in site.outcomes.confirm([row]) for c in one.leaving])

    async def half(cut: int) -> None:
        left = await site.lean.execute("PTTL", site.keys.delivery_status(name(cut)))
        assert (left <= OVER_LINGERS_MS) is (await site.state(cut)).startswith("delivered")

    last = await cut_everywhere(redis, prepare, work, half)
    assert last == 1
    bodies = [site.keys.message_body(name(cut)) for cut in range(last + 1)]
    assert leaving == [("PEXPIRE", body, OVER_LINGERS_MS, "LT") for body in bodies]


async def test_a_claim_cut_short_leaves_the_next_attempt(redis: RedisService) -> None:
    """这一次没有推；消息还在信箱里，下一次照推。"""
    site = Site(redis)

    async def work(cut: int) -> None:
        await site.outcomes.claim([(name(cut), cut + 1, 0)], 3, NOW)

    async def half(cut: int) -> None:
        assert await site.in_mailbox(cut)

    last = await cut_everywhere(redis, site.deliver, work, half)
    assert last >= 3
    for cut in range(last + 1):
        [claimed] = await site.outcomes.claim([(name(cut), cut + 1, 1)], 3, NOW)
        assert (claimed.verdict, claimed.attempts) == (Verdict.CLAIMED, 2)
        assert await site.delayed(cut) >= 1


async def test_dlv_5_what_expired_is_held_or_entombed(redis: RedisService) -> None:
    site = Site(redis)

    async def work(cut: int) -> None:
        await site.outcomes.expire([(name(cut), cut + 1, NOW)])

    async def entombed(cut: int) -> bool:
        graves = site.keys.expired_messages(cut + 1)
        return await site.lean.execute("ZSCORE", graves, name(cut)) is not None

    async def half(cut: int) -> None:
        assert await site.in_mailbox(cut) != await entombed(cut)

    last = await cut_everywhere(redis, site.deliver, work, half)
    assert last >= 2
    for cut in range(last + 1):
        assert (await entombed(cut), await site.count(cut, "expired")) == (True, 1)
        assert (await site.state(cut)).startswith("expired:")


async def test_a_stray_of_the_unpartitioned_set_comes_home_once(redis: RedisService) -> None:
    """``queue_partitions`` 改了，从前的还等着。"""
    site = Site(redis)
    partitions = QueueKeys.of(redis.keys, 3)
    streams = QueueStreams(redis.lean, redis.keys, partitions)

    async def prepare(cut: int) -> None:
        await streams.delay({site.keys.delayed_queue: [NOW, b"3" + entry(cut)]})

    async def work(_cut: int) -> None:
        await streams.move_due(NOW, 10, live=10, max_length=100, bulk_room=100)

    async def waiting(cut: int) -> int:
        sets = [site.keys.delayed_queue, *(each.delayed for each in partitions)]
        found = [await site.lean.execute("ZSCORE", one, b"3" + entry(cut)) for one in sets]
        return sum(score is not None for score in found)

    async def taken(cut: int) -> int:
        pages = [await site.lean.execute("XRANGE", each.delivery, "-", "+") for each in partitions]
        return sum(entry(cut) in fields for page in pages for _, fields in page)

    async def half(cut: int) -> None:
        assert await waiting(cut) or await taken(cut)

    last = await cut_everywhere(redis, prepare, work, half)
    for cut in range(last + 1):
        assert (await waiting(cut), await taken(cut)) == (0, 1)


# ── 在线状态 ────────────────────────────────────────────────────────────────


class Presence:
    def __init__(self, redis: RedisService) -> None:
        self.redis = redis
        self.store = PresenceStore(redis.lean, redis.keys, NodeIdentity("n1"), HOUR_MS)

    async def come(self, cut: int) -> None:
        await self.write(cut, info("c", node="n1"))

    async def leave(self, cut: int) -> None:
        await self.write(cut, FailureCause.NETWORK)

    async def write(self, cut: int, what: ConnectionInfo | FailureCause) -> None:
        await self.store.apply([(cut + 1, "c", what)], NOW)

    async def places(self, cut: int) -> tuple[bool, bool, bool]:
        """在他的表里、在节点的索引里、在全局的集合里。"""
        keys, user_id = self.redis.keys, cut + 1
        table, index, online = await self.redis.lean.execute_many(
            [
                ("HEXISTS", keys.online_user(user_id), "c"),
                ("SISMEMBER", keys.node_connections("n1"), f"{user_id}:c"),
                ("ZSCORE", keys.online_users_set, user_id),
            ]
        )
        return bool(table), bool(index), online is not None


async def test_con_2_whoever_is_in_a_table_is_in_the_index(redis: RedisService) -> None:
    presence = Presence(redis)

    async def prepare(_cut: int) -> None:
        await presence.store.renew_lease(20_000, NOW)

    async def half(cut: int) -> None:
        table, index, _ = await presence.places(cut)
        assert index or not table, "nobody would reap it"

    last = await cut_everywhere(redis, prepare, presence.come, half)
    assert [await presence.places(cut) for cut in range(last + 1)] == [(True,) * 3] * (last + 1)
    last = await cut_everywhere(redis, presence.come, presence.leave, half)
    assert last >= 2
    assert [await presence.places(cut) for cut in range(last + 1)] == [(False,) * 3] * (last + 1)


async def test_con_2_a_reaper_that_dies_is_followed_by_another(redis: RedisService) -> None:
    presence = Presence(redis)
    other = PresenceStore(redis.lean, redis.keys, NodeIdentity("n2"), HOUR_MS)

    async def work(_cut: int) -> None:
        await other.reap("n1")

    async def half(cut: int) -> None:
        table, index, _ = await presence.places(cut)
        assert index or not table

    last = await cut_everywhere(redis, presence.come, work, half)
    assert last >= 4
    assert [await presence.places(cut) for cut in range(last + 1)] == [(False,) * 3] * (last + 1)
    assert await redis.lean.execute("SMEMBERS", redis.keys.nodes) == []
