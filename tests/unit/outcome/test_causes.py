"""没有送达的归对了类：凭当时的情形，不是凭原因的名字；真实的 Redis 与两种 SQL。"""

from __future__ import annotations

import pytest
from sqlalchemy import text, update

from meeting_push.clock import now_ms
from meeting_push.model import FailureCause
from meeting_push.node_identity import NodeIdentity
from meeting_push.outcome.delivery_confirmation_service import (
    undelivered_statistics,
    user_statistics,
)
from meeting_push.presence.ledger import PresenceLedger
from meeting_push.redis import presence
from meeting_push.redis.presence import PresenceStore
from meeting_push.storage.tables import message_recipients
from tests.support.parts import USER, Parts
from tests.unit.presence.nodes import info

TTL_MS = 60_000
DAY_MS = 86_400_000


class Presence:
    """一个节点的在线账，写入由测试来推动。"""

    def __init__(self, parts: Parts) -> None:
        node = NodeIdentity("n")
        self.ledger = PresenceLedger(node, 30_000)
        self.store = PresenceStore(parts.redis.lean, parts.redis.keys, node, DAY_MS)

    async def come(self, connection_id: str = "c") -> None:
        self.ledger.connection_opened(USER, info(connection_id))
        await self.write()

    async def leave(self, left: FailureCause | None, connection_id: str = "c") -> None:
        self.ledger.connection_closed(USER, connection_id, left)
        await self.write()

    async def write(self) -> None:
        changes = self.ledger.take(10, now_ms())
        await self.store.apply(changes, now_ms())
        self.ledger.settle(changes)


@pytest.fixture
def devices(parts: Parts) -> Presence:
    return Presence(parts)


async def causes(parts: Parts) -> dict[FailureCause, int]:
    """这个人的，一条也没有的略去。"""
    found = await user_statistics(parts.reports, USER, 3_600, parts.now)
    return {cause: count for cause, count in found.causes.items() if count}


async def put_in_mailbox(parts: Parts) -> None:
    message_id = await parts.deliver(ttl_ms=TTL_MS)
    await parts.messages.mark_enqueued([message_id], parts.now)


async def expire(parts: Parts) -> None:
    parts.now += TTL_MS + 2_000
    await parts.expiry.sweep()


# ── 失败的 ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reason", ["cleared", "mailbox_evicted"])
async def test_what_a_rule_removed_is_policy(parts: Parts, reason: str) -> None:
    message_id = await parts.deliver()
    await parts.failures.fail([(message_id, USER)], reason)
    assert await causes(parts) == {FailureCause.POLICY: 1}


@pytest.mark.parametrize("reason", ["delivered_too_often", "body_gone", "mailbox_broken", "new"])
async def test_what_we_could_not_do_is_the_system(parts: Parts, reason: str) -> None:
    message_id = await parts.deliver()
    await parts.failures.fail([(message_id, USER)], reason)
    assert await causes(parts) == {FailureCause.SYSTEM: 1}
    assert parts.failures.causes == {FailureCause.SYSTEM: 1}


async def test_a_late_ack_takes_the_cause_back(parts: Parts) -> None:
    message_id = await parts.deliver()
    await parts.failures.fail([(message_id, USER)], "no_ack", cause=FailureCause.CLIENT)
    assert await causes(parts) == {FailureCause.CLIENT: 1}
    await parts.ack(message_id)
    assert await causes(parts) == {}


async def test_a_requeued_one_has_no_cause_until_it_fails_again(parts: Parts) -> None:
    message_id = await parts.deliver()
    await parts.failures.fail([(message_id, USER)], "no_ack", cause=FailureCause.CLIENT)
    await parts.failures.requeue(message_id, USER)
    assert await causes(parts) == {}


async def test_what_an_older_program_recorded_is_told_by_its_reason(parts: Parts) -> None:
    cleared, unanswered = [await parts.deliver() for _ in range(2)]
    await parts.failures.fail([(cleared, USER)], "cleared")
    await parts.failures.fail([(unanswered, USER)], "no_ack")
    async with parts.database.transaction() as connection:
        await connection.execute(update(message_recipients).values(failure_cause=None))
    page = await parts.reports.failures(None, 10)
    found = {one.message_id: one.cause for one in page.items}
    assert found == {cleared: FailureCause.POLICY, unanswered: None}
    told = await undelivered_statistics(parts.reports, 60, parts.now)
    assert (told.causes[FailureCause.POLICY], told.unknown) == (1, 1)


# ── 过期的 ──────────────────────────────────────────────────────────────────


async def test_who_was_connected_and_never_acked_is_the_client(
    parts: Parts, devices: Presence
) -> None:
    await devices.come()
    await put_in_mailbox(parts)
    await expire(parts)
    assert await causes(parts) == {FailureCause.CLIENT: 1}
    assert parts.expiry.causes == {FailureCause.CLIENT: 1}


@pytest.mark.parametrize(
    ("left", "cause"),
    [
        (FailureCause.NETWORK, FailureCause.NETWORK),
        (FailureCause.AUTHENTICATION, FailureCause.AUTHENTICATION),
        (FailureCause.CLIENT, FailureCause.CLIENT),
        (None, FailureCause.POLICY),
    ],
)
async def test_of_who_left_and_did_not_come_back_how_he_left_tells(
    parts: Parts, devices: Presence, left: FailureCause | None, cause: FailureCause
) -> None:
    await devices.come()
    await devices.leave(left)
    await put_in_mailbox(parts)
    await expire(parts)
    assert await causes(parts) == {cause: 1}


async def test_who_came_back_and_said_goodbye_is_policy(parts: Parts, devices: Presence) -> None:
    await devices.come()
    await devices.leave(FailureCause.NETWORK)
    await devices.come("again")
    await devices.leave(None, "again")
    await put_in_mailbox(parts)
    await expire(parts)
    assert await causes(parts) == {FailureCause.POLICY: 1}


async def test_one_of_two_devices_that_broke_off_says_nothing(
    parts: Parts, devices: Presence
) -> None:
    await devices.come("phone")
    await devices.come("laptop")
    await devices.leave(FailureCause.NETWORK, "phone")
    await devices.leave(None, "laptop")
    await put_in_mailbox(parts)
    await expire(parts)
    assert await causes(parts) == {FailureCause.POLICY: 1}


async def test_what_was_never_enqueued_is_the_system(parts: Parts, devices: Presence) -> None:
    await devices.come()
    await devices.leave(FailureCause.NETWORK)
    await parts.accept(ttl_ms=TTL_MS)
    await expire(parts)
    assert await causes(parts) == {FailureCause.SYSTEM: 1}


async def test_what_never_left_the_queue_is_the_system(parts: Parts) -> None:
    message = await parts.accept(ttl_ms=TTL_MS)
    await parts.messages.mark_enqueued([message.message_id], parts.now)
    await expire(parts)
    assert await causes(parts) == {FailureCause.SYSTEM: 1}


async def test_a_spoiled_mailbox_was_not_reached_and_the_others_were(parts: Parts) -> None:
    message_id = await parts.deliver(USER, 8)
    keys = parts.redis.keys
    for key in (keys.mailbox(USER), keys.message_log(USER), keys.expired_messages(USER)):
        await parts.redis.lean.execute("SET", key, "spoiled")
    assert await parts.outcomes.reached([(message_id, USER), (message_id, 8)]) == [False, True]


# ── 数 ──────────────────────────────────────────────────────────────────────


async def test_failed_and_expired_are_counted_by_the_moment_they_ended(
    parts: Parts, devices: Presence
) -> None:
    old, gone = [await parts.deliver(ttl_ms=TTL_MS * 100) for _ in range(2)]
    await parts.failures.fail([(old, USER)], "cleared")
    parts.now += 3_600_000
    await parts.failures.fail([(gone, USER)], "body_gone")
    await devices.come()
    await put_in_mailbox(parts)
    await expire(parts)
    told = await undelivered_statistics(parts.reports, 600, parts.now)
    assert told.reasons == {"body_gone": 1, "expired": 1}
    assert (told.causes[FailureCause.SYSTEM], told.causes[FailureCause.CLIENT]) == (1, 1)
    assert (told.causes[FailureCause.POLICY], told.unknown) == (0, 0)


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("failed_at >= 1 AND status = 'failed'", "mp_ix_recipients_failed"),
        ("expired_at >= 1 AND status = 'expired'", "mp_ix_recipients_expired"),
    ],
)
async def test_counting_reads_only_what_ended(parts: Parts, query: str, index: str) -> None:
    async with parts.database.transaction() as connection:
        if not parts.database.is_sqlite:
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        explain = "EXPLAIN QUERY PLAN " if parts.database.is_sqlite else "EXPLAIN "
        question = (
            f"SELECT failure_cause, count(*) FROM mp_message_recipients WHERE {query} GROUP BY 1"
        )
        plan = (await connection.execute(text(explain + question))).all()
    assert index in str(plan)


# ── 记得的有界 ───────────────────────────────────────────────────────────────


async def test_only_so_many_who_broke_off_are_remembered(
    parts: Parts, devices: Presence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "MAX_LEFT", 2)
    for user_id in (1, 2, 3):
        devices.ledger.connection_opened(user_id, info(f"c{user_id}"))
        await devices.write()
        devices.ledger.connection_closed(user_id, f"c{user_id}", FailureCause.NETWORK)
        await devices.write()
    lean, key = parts.redis.lean, parts.redis.keys.left_users
    assert len(await lean.execute("ZRANGE", key, 0, -1)) == 2
    assert await lean.execute("PTTL", key) > 0


def test_what_could_not_be_written_is_not_forgotten() -> None:
    ledger = PresenceLedger(NodeIdentity("n"), 30_000)
    ledger.connection_opened(1, info("a"))
    ledger.settle(ledger.take(10, 0))
    ledger.connection_closed(1, "a", FailureCause.NETWORK)
    ledger.put_back(ledger.take(10, 0))
    again = ledger.take(10, 0)
    assert again == [(1, "a", FailureCause.NETWORK)]
    ledger.settle(again)
    assert ledger._left == {}
