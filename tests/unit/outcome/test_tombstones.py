"""DLV-5：过期了还没确认的要说出来，一次，按 seq；迟到的确认照样算数。"""

from __future__ import annotations

from meeting_push.mailbox_model import ResumePoint
from meeting_push.outcome.mailbox_evictor import EVICTED
from tests.support.parts import USER, Parts, delivery


async def expired(parts: Parts) -> tuple[int, ...]:
    """没有位置的设备会听到的。"""
    return (await parts.mailbox.open(USER)).expired


async def sweep(parts: Parts) -> None:
    """过了一分钟（默认的有效期），清理一遍。"""
    parts.now += 62_000
    await parts.expiry.sweep()


async def test_what_expired_unread_leaves_its_seq_behind(parts: Parts) -> None:
    for _ in range(2):
        await parts.deliver()
    kept = await parts.deliver(ttl_ms=600_000)
    await parts.deliver()
    await sweep(parts)
    assert await parts.held() == [kept]
    assert await expired(parts) == (1, 2, 4)


async def test_sweeping_again_changes_nothing(parts: Parts) -> None:
    message_id = await parts.deliver()
    await sweep(parts)
    await parts.outcomes.expire([(message_id, USER, parts.now)])
    assert await expired(parts) == (1,)


async def test_what_was_acked_leaves_nothing(parts: Parts) -> None:
    await parts.ack(await parts.deliver())
    await sweep(parts)
    assert await expired(parts) == ()


async def test_what_was_acked_but_is_not_yet_out_of_the_mailbox_leaves_nothing(
    parts: Parts,
) -> None:
    message_id = await parts.deliver()
    key = parts.redis.keys.delivery_status(message_id)
    await parts.redis.lean.execute("HSET", key, f"u:{USER}", "delivered:1:2")
    await sweep(parts)
    assert (await expired(parts), await parts.held()) == ((), [])


async def test_what_a_connect_found_expired_is_announced_on_the_next_connect_too(
    parts: Parts,
) -> None:
    message = await parts.accept(ttl_ms=-1)  # 没有正文，记录也说它过期了
    await parts.mailbox.deliver([delivery(message, [USER])])
    for _ in range(2):
        assert await expired(parts) == (1,)
    assert await parts.held() == []


async def test_a_late_ack_wins_and_there_is_no_hole_any_more(parts: Parts) -> None:
    message_id = await parts.deliver()
    await sweep(parts)
    await parts.ack(message_id)
    assert await parts.status(message_id) == ("delivered", None)
    assert await expired(parts) == ()


async def test_a_late_ack_on_another_connection_wins_even_when_the_log_was_trimmed(
    parts: Parts,
) -> None:
    message_id = await parts.deliver()
    await sweep(parts)
    await parts.redis.lean.execute("DEL", parts.redis.keys.message_log(USER))
    outcome = await parts.confirmation.confirm(USER, [message_id])
    await parts.written()
    assert (outcome.accepted, outcome.unknown) == (1, ())
    assert await parts.status(message_id) == ("delivered", None)
    assert await expired(parts) == ()


async def test_a_resuming_device_hears_of_it_from_the_log_and_only_after_its_position(
    parts: Parts,
) -> None:
    messages = [await parts.accept(ttl_ms=-1) for _ in range(3)]
    await parts.mailbox.deliver([delivery(message, [USER]) for message in messages])
    await parts.outcomes.expire([(m.message_id, USER, parts.now) for m in messages])
    epoch = (await parts.mailbox.open(USER)).epoch
    view = await parts.mailbox.open(USER, ResumePoint(epoch, 1))
    assert (view.resumed, view.expired) == (True, (2, 3))


async def test_an_ack_before_the_eviction_was_recorded_counts(parts: Parts) -> None:
    """不在信箱里、状态里也还没有它：没有确认过，所以现在算。"""
    message_id = await parts.deliver()
    await parts.mailbox.remove([(USER, [message_id])])
    await parts.confirmation.confirm(USER, [message_id])
    await parts.written()
    assert await parts.status(message_id) == ("delivered", None)
    assert await parts.failures.fail([(message_id, USER)], EVICTED) == 0
