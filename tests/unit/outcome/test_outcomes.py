"""每一步之间死掉也只有一个结局：真实的 Redis 与两种 SQL。"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from meeting_push.errors import DatabaseUnavailableError, MessageExpiredError, NotFoundError
from meeting_push.mailbox_model import ResumePoint
from meeting_push.model import Ack, QueueEntry
from meeting_push.redis.bodies import OVER_LINGERS_MS
from meeting_push.redis.outcomes import Verdict
from meeting_push.storage.recipients import DeliveredRow
from tests.support.parts import USER, Parts, delivery

# ── 认领 ────────────────────────────────────────────────────────────────────


async def test_of_two_claims_of_one_attempt_only_one_is_granted(parts: Parts) -> None:
    message_id = await parts.deliver()
    assert await parts.claim(message_id, 0) == (Verdict.CLAIMED, 1)
    assert await parts.claim(message_id, 0) == (Verdict.STALE, 1)
    assert len(await parts.delayed()) == 1


async def test_a_claim_puts_a_readable_entry_with_its_attempt_into_the_delayed_queue(
    parts: Parts,
) -> None:
    message_id = await parts.deliver(priority=9)
    await parts.claim(message_id, 0)
    [member] = await parts.delayed()
    entry = msgspec.json.decode(member[1:], type=QueueEntry)
    assert member[:1] == b"9"
    assert (entry.message_id, entry.recipient_ids, entry.attempt) == (message_id, (USER,), 1)
    assert entry.expires_at == parts.now + 60_000


async def test_after_the_last_attempt_a_claim_says_exhausted(parts: Parts) -> None:
    message_id = await parts.deliver()
    verdicts = [(await parts.claim(message_id, known))[0] for known in range(4)]
    assert verdicts == [Verdict.CLAIMED] * 3 + [Verdict.EXHAUSTED]


async def test_what_is_acked_or_expired_can_not_be_claimed(parts: Parts) -> None:
    acked, expired = await parts.deliver(), await parts.deliver()
    await parts.ack(acked)
    parts.now += 60_000
    assert (await parts.claim(acked, 0))[0] is Verdict.GONE
    assert (await parts.claim(expired, 0))[0] is Verdict.GONE


async def test_a_retry_that_meets_the_ack_does_not_come_back_into_the_mailbox(
    parts: Parts,
) -> None:
    """认领之后、投递之前确认到了；即使续传日志也已经裁掉了它。"""
    message = await parts.accept()
    await parts.mailbox.deliver([delivery(message, [USER])])
    await parts.mailbox.remove([(USER, [message.message_id])])
    await parts.redis.lean.execute("DEL", parts.redis.keys.message_log(USER))
    [[again]] = await parts.mailbox.deliver([delivery(message, [USER], attempt=1)])
    assert again.acked
    assert await parts.held() == []


# ── 失败 ────────────────────────────────────────────────────────────────────


async def test_dlv_1_killed_between_the_record_of_a_failure_and_the_mailbox(parts: Parts) -> None:
    message_id = await parts.deliver()
    await parts.record.record_failed([(message_id, USER)], "no_ack", parts.now)
    assert await parts.held() == [message_id]
    assert await parts.failures.fail([(message_id, USER)], "no_ack") == 1
    assert (await parts.status(message_id), await parts.held()) == (("failed", "no_ack"), [])
    assert await parts.letters() == 1


async def test_a_failure_recorded_twice_is_one_dead_letter(parts: Parts) -> None:
    message_id = await parts.deliver()
    counts = [await parts.failures.fail([(message_id, USER)], "no_ack") for _ in range(2)]
    assert (counts, await parts.letters()) == ([1, 0], 1)


async def test_dlv_4_an_ack_half_recorded_beats_the_failure(parts: Parts) -> None:
    """网关死在确认的两步之间：Redis 里已送达，SQL 里还没有。"""
    message_id = await parts.deliver()
    await parts.confirmation._record_in_redis([(message_id, USER, parts.now, parts.now)])
    assert await parts.failures.fail([(message_id, USER)], "no_ack") == 0
    assert await parts.status(message_id) == ("delivered", None)
    assert (await parts.held(), await parts.letters()) == ([], 0)


async def test_what_is_delivered_does_not_fail(parts: Parts) -> None:
    message_id = await parts.deliver()
    await parts.ack(message_id)
    assert await parts.failures.fail([(message_id, USER)], "no_ack") == 0
    assert await parts.status(message_id) == ("delivered", None)


async def test_dlv_4_a_late_ack_takes_back_the_dead_letter(parts: Parts) -> None:
    message_id = await parts.deliver()
    await parts.failures.fail([(message_id, USER)], "no_ack")
    outcome = await parts.confirmation.confirm(USER, [message_id])
    await parts.ack(message_id)
    assert outcome.accepted == 1
    assert await parts.status(message_id) == ("delivered", None)
    assert (await parts.redis_status(message_id), await parts.letters()) == ("delivered", 0)


async def test_a_failure_tells_the_sender_who_asked(parts: Parts) -> None:
    message_id = await parts.deliver(receipt=True)
    await parts.failures.fail([(message_id, USER)], "no_ack")
    [(to, frame)] = parts.channel.published
    receipt = msgspec.json.decode(frame)
    assert (to, receipt["recipient_id"], receipt["status"]) == (1, USER, "failed")


async def test_clearing_spares_other_users_and_what_has_no_record(parts: Parts) -> None:
    message_id = await parts.deliver(USER, 8)
    assert await parts.failures.clear(USER) == 1
    assert await parts.status(message_id) == ("failed", "cleared")
    assert await parts.status(message_id, 8) == ("pending", None)
    assert await parts.held(8) == [message_id]


# ── 对谁都完结了 ─────────────────────────────────────────────────────────────

DAY_MS = 86_400_000


async def lives_ms(parts: Parts, message_id: str) -> tuple[int, int]:
    """正文与状态还活多久。"""
    keys = parts.redis.keys
    body, status = await parts.redis.lean.execute_many(
        [
            ("PTTL", keys.message_body(message_id)),
            ("PTTL", keys.delivery_status(message_id)),
        ]
    )
    return body, status


async def test_the_body_and_the_status_leave_early_once_everybody_has_confirmed(
    parts: Parts,
) -> None:
    message_id = await parts.deliver(USER, 8, ttl_ms=7 * DAY_MS)
    await parts.ack(message_id)
    assert min(await lives_ms(parts, message_id)) > 6 * DAY_MS
    parts.confirmation.record(8, [Ack(message_id, 1, parts.now, parts.now)])
    await parts.written()
    assert max(await lives_ms(parts, message_id)) <= OVER_LINGERS_MS


async def test_a_body_nobody_waits_for_leaves_early_though_the_record_was_away_at_first(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    message_id = await parts.deliver(ttl_ms=7 * DAY_MS)
    record, away = parts.recipients.record_delivered, [DatabaseUnavailableError("away")]

    async def sometimes(rows: Sequence[DeliveredRow]) -> int:
        if away:
            raise away.pop()
        return await record(rows)

    monkeypatch.setattr(parts.recipients, "record_delivered", sometimes)
    await parts.ack(message_id)
    assert not away
    assert await parts.held() == []
    assert max(await lives_ms(parts, message_id)) <= OVER_LINGERS_MS


async def test_an_early_leave_does_not_outlive_the_message(parts: Parts) -> None:
    message_id = await parts.deliver(ttl_ms=60_000)
    await parts.ack(message_id)
    assert (await lives_ms(parts, message_id))[0] <= 60_000


async def test_a_failure_keeps_what_a_requeue_needs(parts: Parts) -> None:
    message_id = await parts.deliver(USER, 8, ttl_ms=7 * DAY_MS)
    await parts.ack(message_id)
    await parts.failures.fail([(message_id, 8)], "no_ack")
    assert min(await lives_ms(parts, message_id)) > 6 * DAY_MS


async def test_a_device_that_comes_later_has_it_from_the_record(parts: Parts) -> None:
    """正文早走了：续传照样补上，救回来的也只留一小时。"""
    message_id = await parts.deliver(ttl_ms=7 * DAY_MS)
    view = await parts.mailbox.open(USER)
    await parts.ack(message_id)
    keys = parts.redis.keys
    for key in (keys.message_body(message_id), keys.delivery_status(message_id)):
        await parts.redis.lean.execute("DEL", key)
    again = await parts.mailbox.open(USER, ResumePoint(view.epoch, 0))
    assert again.resumed
    assert [entry.message_id for entry in again.entries] == [message_id]
    assert 0 < (await lives_ms(parts, message_id))[0] <= OVER_LINGERS_MS


# ── 重新入队 ─────────────────────────────────────────────────────────────────


async def test_a_requeued_delivery_starts_over(parts: Parts) -> None:
    message_id = await parts.deliver()
    await parts.claim(message_id, 0)
    await parts.record.record_attempts([(message_id, USER, 1)])
    await parts.failures.fail([(message_id, USER)], "no_ack")
    await parts.redis.lean.execute("DEL", parts.queue_keys.delayed)
    await parts.failures.requeue(message_id, USER)
    state = (await parts.recipients.page(message_id)).items[0]
    assert (state.status, state.attempts, state.failed_at) == ("pending", 0, None)
    assert (await parts.letters(), len(await parts.delayed())) == (0, 1)
    message = await parts.messages.get(message_id)
    assert message is not None
    [[again]] = await parts.mailbox.deliver([delivery(message, [USER])])
    assert (again.seq, again.acked) == (2, False)
    assert await parts.claim(message_id, 0) == (Verdict.CLAIMED, 1)


async def test_dlv_1_killed_between_the_queue_and_the_record_of_a_requeue(parts: Parts) -> None:
    message_id = await parts.deliver()
    await parts.failures.fail([(message_id, USER)], "no_ack")
    failed = await parts.record.find_failed(message_id, USER)
    assert failed is not None
    entry = msgspec.json.encode(
        QueueEntry(
            message_id=message_id, recipient_ids=(USER,), priority=0, expires_at=failed.expires_at
        )
    )
    await parts.outcomes.requeue([(message_id, USER, 0, failed.expires_at, entry)], parts.now)
    assert (await parts.status(message_id))[0] == "failed"
    await parts.failures.requeue(message_id, USER)  # 操作者再按一次
    assert (await parts.status(message_id))[0] == "pending"
    assert len(await parts.delayed()) == 1


async def test_an_expired_failure_can_not_be_requeued(parts: Parts) -> None:
    message_id = await parts.deliver()
    await parts.failures.fail([(message_id, USER)], "no_ack")
    parts.now += 60_000
    with pytest.raises(MessageExpiredError):
        await parts.failures.requeue(message_id, USER)
    with pytest.raises(NotFoundError):
        await parts.failures.requeue(message_id, 8)


async def test_an_expired_dead_letter_is_dropped_and_the_failure_stays(parts: Parts) -> None:
    message_id = await parts.deliver()
    await parts.failures.fail([(message_id, USER)], "no_ack")
    assert await parts.dead_letters.drop_expired(parts.now) == 0
    parts.now += 60_000
    assert await parts.dead_letters.drop_expired(parts.now) == 1
    assert await parts.status(message_id) == ("failed", "no_ack")


# ── 过期 ────────────────────────────────────────────────────────────────────


async def test_dlv_1_killed_between_the_record_of_an_expiry_and_the_mailbox(parts: Parts) -> None:
    message_id = await parts.deliver(USER, 8)
    parts.now += 62_000
    await parts.record.record_expired([message_id], parts.now)
    assert await parts.expiry.sweep() == 0
    assert (await parts.held(), await parts.held(8)) == ([], [])
    assert await parts.redis_status(message_id) == "expired"
    assert await parts.record.expirable(parts.now, 10) == []


async def test_only_pending_recipients_expire(parts: Parts) -> None:
    message_id = await parts.deliver(USER, 8, 9)
    await parts.ack(message_id)
    await parts.failures.fail([(message_id, 8)], "no_ack")
    parts.now += 62_000
    assert await parts.expiry.sweep() == 1
    states = [(await parts.status(message_id, user))[0] for user in (USER, 8, 9)]
    assert states == ["delivered", "failed", "expired"]


async def test_scheduled_and_never_enqueued_messages_expire_too(parts: Parts) -> None:
    waiting = await parts.accept()
    scheduled = await parts.accept(deliver_at=parts.now + 59_000)
    parts.now += 62_000
    assert await parts.expiry.sweep() == 2
    for message in (waiting, scheduled):
        assert (await parts.status(message.message_id))[0] == "expired"


async def test_what_has_not_expired_is_left_alone(parts: Parts) -> None:
    message_id = await parts.deliver()
    parts.now += 59_000
    assert await parts.expiry.sweep() == 0
    assert await parts.held() == [message_id]


async def test_one_node_at_a_time_has_the_turn(parts: Parts) -> None:
    assert [await parts.expiry._turn.take_anew() for _ in range(3)] == [True, False, False]


# ── 一批确认 ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("failed_before", [False, True])
async def test_one_recipient_twice_in_a_batch_of_acks_counts_once(
    parts: Parts, failed_before: bool
) -> None:
    """两台设备各确认了一次，落在同一批里。"""
    message_id = await parts.deliver()
    if failed_before:
        await parts.failures.fail([(message_id, USER)], "no_ack")
    rows = [(message_id, USER, parts.now, parts.now + at) for at in range(2)]
    await parts.confirmation._record_in_redis(rows)
    assert sum(parts.confirmation.confirmed.values()) == 1
    assert await parts.redis_status(message_id) == "delivered"
    assert await parts.letters() == 0


async def test_of_a_batch_with_one_row_a_message_each_counts_once_and_by_its_kind(
    parts: Parts,
) -> None:
    """每条一行的走最短的路，别的（几个人的、要回执的、坏了的、过期了的、再来一遍的）照旧。"""
    plain = [await parts.deliver() for _ in range(3)]
    urgent = await parts.deliver(priority=9)
    asked = await parts.deliver(receipt=True)
    several = await parts.deliver(USER, 8)
    bad, miscounted = await parts.deliver(), await parts.deliver()
    lean, keys = parts.redis.lean, parts.redis.keys
    await lean.execute("SET", keys.delivery_status(bad), "x")
    await lean.execute("HSET", keys.delivery_status(miscounted), "delivered", "x")
    late = await parts.deliver(ttl_ms=1)
    ids = [*plain, urgent, asked, several, bad, miscounted, late]
    rows = sorted((each, USER, parts.now, parts.now + 2) for each in ids)
    for _ in range(2):
        await parts.confirmation._record_in_redis(rows)
    counted = {(kind.priority, count) for kind, count in parts.confirmation.confirmed.items()}
    assert counted == {(0, 7), (9, 1)}
    assert set(parts.confirmation._unsent) == {(asked, USER)}
    for each in (*plain, urgent, asked):
        assert await lean.execute("HGET", keys.delivery_status(each), "delivered") == b"1"
    leaving = {command[1] for command in parts.confirmation._leaving}
    assert leaving == {keys.message_body(each) for each in (*plain, urgent, asked, late)}
    assert await lean.execute("PTTL", keys.delivery_status(several)) > OVER_LINGERS_MS
