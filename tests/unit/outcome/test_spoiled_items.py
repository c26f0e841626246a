"""B1：别人写坏的一项（键的类型不对、读不懂的行、存不下的值）不连累别的项，也不让循环停下。"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import update

from meeting_push.accept.outbox_relay import OutboxRelay
from meeting_push.broadcast.service import BroadcastRelay
from meeting_push.errors import DatabaseUnavailableError
from meeting_push.limits.send_limits import FairShares
from meeting_push.model import Ack, FailureCause, Message, Outgoing, Principal, QueueEntry
from meeting_push.outcome.retry_service import RetryService
from meeting_push.protocol.sent import Overdue
from meeting_push.queue.message_consumer import MAILBOX_BROKEN, MessageConsumer
from meeting_push.queue.message_queue import MessageQueue
from meeting_push.redis.broadcast_log import BroadcastLog
from meeting_push.settings import load_settings
from meeting_push.storage.accept_batch import AcceptBatch
from meeting_push.storage.broadcasts import BroadcastRepository
from meeting_push.storage.messages import UNREADABLE
from meeting_push.storage.tables import messages
from meeting_push.supervision import Aside
from tests.support.eventually import eventually
from tests.support.parts import USER, Parts
from tests.support.queueing import message_consumer, message_queue, outbox_turn
from tests.support.revoking import revocations_of

OTHER, THIRD = 8, 9


async def spoil(parts: Parts, *keys: str) -> None:
    """把键换成别的类型。"""
    for key in keys:
        kind = await parts.redis.lean.execute("TYPE", key)
        await parts.redis.lean.execute("DEL", key)
        if kind == b"string":
            await parts.redis.lean.execute("RPUSH", key, "x")
        else:
            await parts.redis.lean.execute("SET", key, "x")


async def acked(parts: Parts, *acks: tuple[str, int]) -> None:
    for message_id, user_id in acks:
        parts.confirmation.record(user_id, [Ack(message_id, 1, parts.now, parts.now)])
    await parts.written()


# ── 确认 ────────────────────────────────────────────────────────────────────


async def test_b1_a_spoiled_status_stops_nobodys_acks_and_not_even_its_own(parts: Parts) -> None:
    spoiled, good = await parts.deliver(), await parts.deliver(OTHER)
    await spoil(parts, parts.redis.keys.delivery_status(spoiled))
    await acked(parts, (spoiled, USER), (good, OTHER))
    assert await parts.status(good, OTHER) == ("delivered", None)
    assert await parts.redis_status(good, OTHER) == "delivered"
    assert await parts.status(spoiled) == ("delivered", None)
    assert await parts.held() == await parts.held(OTHER) == []


async def test_b1_a_spoiled_mailbox_stops_nobodys_acks(parts: Parts) -> None:
    one, two = await parts.deliver(), await parts.deliver(OTHER)
    await spoil(parts, parts.redis.keys.mailbox(USER))
    await acked(parts, (one, USER), (two, OTHER))
    assert await parts.status(one) == await parts.status(two, OTHER) == ("delivered", None)
    assert await parts.held(OTHER) == []


@pytest.mark.parametrize("message_id", ["a\x00b", "\ud800", "x" * 5_000])
async def test_b1_an_ack_that_can_not_be_stored_stops_nobodys_acks(
    parts: Parts, message_id: str
) -> None:
    good = await parts.deliver(OTHER)
    await acked(parts, (message_id, USER), (good, OTHER))
    assert await parts.status(good, OTHER) == ("delivered", None)


async def test_b1_the_receipts_and_counts_of_the_others_survive(parts: Parts) -> None:
    spoiled = await parts.deliver()
    good = await parts.deliver(OTHER, THIRD, receipt=True)
    await spoil(parts, parts.redis.keys.delivery_status(spoiled))
    await acked(parts, (good, OTHER), (spoiled, USER), (good, THIRD))
    key = parts.redis.keys.delivery_status(good)
    assert await parts.redis.lean.execute("HGET", key, "delivered") == b"2"
    assert len(parts.channel.published) == 2


async def test_b1_one_ack_frame_with_a_spoiled_status_confirms_the_rest(parts: Parts) -> None:
    """确认的另一扇门：不在本连接推过的，要先问状态。"""
    spoiled, good = await parts.deliver(), await parts.deliver()
    await parts.mailbox.remove([(USER, [spoiled, good])])
    await spoil(parts, parts.redis.keys.delivery_status(spoiled))
    assert (await parts.confirmation.confirm(USER, [spoiled, good])).accepted == 2
    await parts.written()
    assert await parts.status(good) == await parts.status(spoiled) == ("delivered", None)


async def test_b1_an_ack_after_a_spoiled_receipt_address_is_recorded(parts: Parts) -> None:
    spoiled, good = await parts.deliver(receipt=True), await parts.deliver(OTHER, receipt=True)
    key = parts.redis.keys.delivery_status(spoiled)
    await parts.redis.lean.execute("HSET", key, "receipt_to", "nobody", "delivered", "many")
    await acked(parts, (spoiled, USER), (good, OTHER))
    assert await parts.status(spoiled) == await parts.status(good, OTHER) == ("delivered", None)
    assert len(parts.channel.published) == 1


async def test_b1_broadcast_acks_pass_a_spoiled_cursor(parts: Parts) -> None:
    aside = Aside("cursors")
    keys = parts.redis.keys
    log = BroadcastLog(parts.redis.lean, keys, log_ttl_ms=60_000, cursor_ttl_ms=60_000, aside=aside)
    await parts.redis.lean.execute("SET", keys.broadcast_cursor(USER), "x")
    await log.advance([(USER, 5, 0), (OTHER, 5, 0)])
    assert (await log.cursor(OTHER, 0, 0))[0] == 5
    assert aside.count == 1


# ── 重试、失败、过期、挤出 ──────────────────────────────────────────────────────


async def test_b1_a_spoiled_mailbox_stops_nobodys_retries(parts: Parts) -> None:
    one, two = await parts.deliver(), await parts.deliver(OTHER)
    await spoil(parts, parts.redis.keys.mailbox(USER))
    settled: list[tuple[str, int | None]] = []
    service = RetryService(
        outcomes=parts.outcomes,
        record=parts.record,
        failures=parts.failures,
        max_attempts=3,
        aside=Aside("retry"),
    )
    for user_id, message_id in ((USER, one), (OTHER, two)):
        service.claim(
            user_id,
            [Overdue(message_id, 0)],
            lambda *end: settled.append(end),
            lambda: FailureCause.CLIENT,
        )
    loop = asyncio.create_task(service.run())
    await eventually(lambda: (two, 1) in settled and not len(service._writer))
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def test_b1_a_spoiled_mailbox_does_not_hide_a_failure(parts: Parts) -> None:
    one, two = await parts.deliver(), await parts.deliver(OTHER)
    await spoil(parts, parts.redis.keys.mailbox(USER))
    await parts.failures.fail([(one, USER), (two, OTHER)], "no_ack")
    assert await parts.status(one) == await parts.status(two, OTHER) == ("failed", "no_ack")
    assert await parts.redis_status(two, OTHER) == "failed"


async def test_b1_a_spoiled_mailbox_or_status_stops_nobodys_expiry(parts: Parts) -> None:
    one, two, three = (
        await parts.deliver(ttl_ms=10),
        await parts.deliver(OTHER, ttl_ms=20),
        await parts.deliver(THIRD, ttl_ms=30),
    )
    keys = parts.redis.keys
    await spoil(parts, keys.mailbox(USER), keys.delivery_status(two))
    parts.now += 5_000
    assert await parts.expiry.sweep() == 3
    for message_id, user_id in ((one, USER), (two, OTHER), (three, THIRD)):
        assert await parts.status(message_id, user_id) == ("expired", None)
    assert await parts.held(THIRD) == []


# ── 发件箱 ──────────────────────────────────────────────────────────────────


def relay_of(parts: Parts) -> OutboxRelay:
    return OutboxRelay(
        messages=parts.messages,
        queue=parts.queue,
        mailbox=parts.mailbox,
        shares=FairShares(1_000, 1_000),
        chunk_recipients=100,
        interval_s=1,
        grace_s=0,
        clock=parts.clock,
        aside=Aside("outbox"),
        turn=outbox_turn(parts.redis),
    )


async def rewrite(parts: Parts, message_id: str, **values: Any) -> None:
    statement = update(messages).where(messages.c.message_id == message_id).values(**values)
    async with parts.database.transaction() as connection:
        await connection.execute(statement)


@pytest.mark.parametrize("data", ["{", "nonsense", "[1]"])
async def test_b1_an_unreadable_row_does_not_stop_the_outbox(parts: Parts, data: str) -> None:
    spoiled, good = await parts.accept(), await parts.accept(OTHER)
    await rewrite(parts, spoiled.message_id, data=data)
    parts.now += 1
    assert await relay_of(parts).sweep(0) == 1
    assert await parts.queue.streams.backlog() == 1
    assert await parts.status(spoiled.message_id) == ("failed", UNREADABLE)
    assert await parts.status(good.message_id, OTHER) == ("pending", None)


async def test_b1_a_spoiled_status_does_not_keep_a_message_in_the_outbox(parts: Parts) -> None:
    spoiled = await parts.accept()
    await parts.redis.lean.execute("SET", parts.redis.keys.delivery_status(spoiled.message_id), "x")
    parts.now += 1
    assert await relay_of(parts).sweep(0) == 1
    assert await parts.queue.streams.backlog() == 1


async def test_b1_an_unreadable_broadcast_stops_no_other(parts: Parts) -> None:
    record = BroadcastRepository(parts.database)
    made: list[Message] = []
    for _ in range(2):
        message = await parts.accept()  # 借它的样子；广播自己一行
        await rewrite(parts, message.message_id, enqueued_at=parts.now)
        made.append(message)
    async with parts.database.transaction() as connection:
        for message in made:
            values = {"m": message.message_id}
            await connection.exec_driver_sql(
                "INSERT INTO mp_broadcasts (message_id) VALUES "
                + ("(?)" if parts.database.is_sqlite else "($1)"),
                (values["m"],),
            )
    await rewrite(parts, made[0].message_id, data="{")
    log = BroadcastLog(
        parts.redis.lean,
        parts.redis.keys,
        log_ttl_ms=60_000,
        cursor_ttl_ms=60_000,
        aside=Aside("broadcast-cursors"),
    )
    relay = BroadcastRelay(
        record, log, parts.mailbox, interval_s=1, clock=parts.clock, aside=Aside("broadcast-outbox")
    )
    assert await relay.sweep() == 1
    assert [entry.message_id for entry in await log.entries()] == [made[1].message_id]
    assert await record.outbox(parts.now, 10) == []


# ── 取出、投递 ───────────────────────────────────────────────────────────────


def consumer_of(parts: Parts, queue: MessageQueue | None = None) -> MessageConsumer:
    return message_consumer(
        "c",
        queue or parts.queue,
        parts.mailbox,
        batch_entries=10,
        block_ms=20,
        claim_every_ms=20,
        clock=parts.clock,
    )


def queue_of(parts: Parts, *, claim_idle_ms: int = 1_000, max_deliveries: int = 5) -> MessageQueue:
    async def record(entry: QueueEntry, reason: str) -> None:
        pairs = [(entry.message_id, user_id) for user_id in entry.recipient_ids]
        await parts.failures.fail(pairs, reason, letters=False)

    return message_queue(
        parts.redis,
        max_length=1_000,
        claim_idle_ms=claim_idle_ms,
        max_deliveries=max_deliveries,
        on_dead=record,
        clock=parts.clock,
    )


@pytest.mark.parametrize("key", ["mailbox", "message_log", "user_seq"])
async def test_b1_one_recipients_spoiled_key_costs_the_other_recipients_nothing(
    parts: Parts, key: str
) -> None:
    queue = queue_of(parts)
    message = await parts.accept(USER, OTHER, THIRD)
    await parts.redis.lean.execute("SET", getattr(parts.redis.keys, key)(OTHER), "x")
    parts.now += 1
    await relay_of(parts).sweep(0)
    consumer = consumer_of(parts, queue)
    work = asyncio.create_task(consumer.run())

    async def failed() -> bool:
        return await parts.status(message.message_id, OTHER) == ("failed", MAILBOX_BROKEN)

    await eventually(failed)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert await parts.held() == await parts.held(THIRD) == [message.message_id]
    assert await queue.streams.backlog() == 0


async def test_b1_poison_with_a_spoiled_mailbox_ends_in_the_dead_letters(parts: Parts) -> None:
    """收件人的信箱坏了，记失败的那一步也碰它：消费者不能死在这里。"""
    queue = queue_of(parts, claim_idle_ms=0, max_deliveries=1)
    spoiled, good = await parts.accept(), await parts.accept(OTHER)
    await parts.redis.lean.execute("SET", parts.redis.keys.mailbox(USER), "x")
    parts.now += 1
    await relay_of(parts).sweep(0)
    consumer = consumer_of(parts, queue)
    work = asyncio.create_task(consumer.run())

    async def buried() -> bool:
        return await parts.letters() == 1

    await eventually(buried)
    assert not work.done()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert (await parts.status(spoiled.message_id))[0] == "failed"
    assert await parts.held(OTHER) == [good.message_id]


async def test_b1_what_needs_the_record_waits_alone_while_the_record_is_away(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """正文丢了的一条要问 SQL；SQL 不在时，同批的别条照样投递。"""
    lost, good = await parts.accept(), await parts.accept(OTHER)
    parts.now += 1
    await relay_of(parts).sweep(0)
    await parts.redis.lean.execute("DEL", parts.redis.keys.message_body(lost.message_id))

    async def away(*_: object) -> dict[str, Message]:
        raise DatabaseUnavailableError("away")

    monkeypatch.setattr(parts.messages, "messages", away)
    work = asyncio.create_task(consumer_of(parts).run())

    async def delivered() -> bool:
        return await parts.held(OTHER) == [good.message_id]

    await eventually(delivered)
    await eventually(parts.delayed)  # 它等着，以后再来
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert await parts.letters() == 0


@pytest.mark.parametrize("value", [b"", b"x", b"z0not zstd", b"\xff\xff\xff"])
async def test_b1_a_corrupt_body_is_made_again_from_the_record(parts: Parts, value: bytes) -> None:
    spoiled, good = await parts.deliver(), await parts.deliver()
    await parts.redis.lean.execute("SET", parts.redis.keys.message_body(spoiled), value)
    view = await parts.mailbox.open(USER)
    assert {entry.message_id for entry in view.entries} == {spoiled, good}
    assert len(await parts.mailbox.load(view.entries)) == 2


async def test_b1_a_body_of_another_type_is_made_again_from_the_record(parts: Parts) -> None:
    spoiled, good = await parts.deliver(), await parts.deliver()
    await spoil(parts, parts.redis.keys.message_body(spoiled))
    view = await parts.mailbox.open(USER)
    assert {entry.message_id for entry in view.entries} == {spoiled, good}
    assert len(await parts.mailbox.load(view.entries)) == 2


# ── 接受 ────────────────────────────────────────────────────────────────────


async def test_b1_a_message_that_can_not_be_stored_fails_only_its_own_caller(parts: Parts) -> None:
    batch = AcceptBatch(parts.messages)
    good, twice = await example(parts), await parts.accept()
    results = await asyncio.gather(
        batch.insert([Outgoing(twice, [USER])]),  # 主键已有
        batch.insert([Outgoing(good, [USER])]),
        return_exceptions=True,
    )
    assert isinstance(results[0], Exception)
    assert results[1] is None
    assert await parts.messages.get(good.message_id) is not None


async def example(parts: Parts) -> Message:
    """一条还没接受的。"""
    message = await parts.accept()
    parts.now += 1_000
    return Message(
        message_id=message.message_id[:-1] + ("0" if message.message_id[-1] != "0" else "1"),
        message_type="message",
        priority=0,
        title="t",
        content="c",
        sender=message.sender,
        timestamp=parts.now,
        expires_at=parts.now + 60_000,
    )


# ── 吊销 ────────────────────────────────────────────────────────────────────


async def test_b1_an_unreadable_revocation_does_not_hide_the_others(parts: Parts) -> None:
    if not parts.database.is_sqlite:
        pytest.skip("PostgreSQL stores no text in a bigint")
    settings = load_settings().auth
    record = revocations_of(settings, parts.database)
    await record.revoke_user(1, reason="test")
    async with parts.database.transaction() as connection:
        await connection.exec_driver_sql("UPDATE mp_revocations SET revoked_before = 'x'")
    await record.revoke_user(2, reason="test")
    reader = revocations_of(settings, parts.database)
    await reader.refresh()
    assert reader.known.covers(Principal(2, "user", parts.now - 60_000, parts.now + 60_000))
