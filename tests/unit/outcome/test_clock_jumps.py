"""墙上的钟跳来跳去：一次重试只认领一次，早到的结论让位给迟到的确认。"""

from __future__ import annotations

from meeting_push.redis.outcomes import Verdict
from tests.support.parts import Parts

DAY_MS = 86_400_000


async def test_each_attempt_is_claimed_once_whatever_the_clock_says(parts: Parts) -> None:
    message_id = await parts.deliver(ttl_ms=7 * DAY_MS)
    answers = []
    for jump in (DAY_MS, -2 * DAY_MS, 2 * DAY_MS):
        parts.now += jump
        answers.append(await parts.claim(message_id, 0))
    assert answers == [(Verdict.CLAIMED, 1), (Verdict.STALE, 1), (Verdict.STALE, 1)]


async def test_a_retry_claimed_before_the_clock_fell_back_waits_and_comes_once(
    parts: Parts,
) -> None:
    message_id = await parts.deliver(ttl_ms=7 * DAY_MS)
    assert await parts.claim(message_id, 0) == (Verdict.CLAIMED, 1)
    moved = []
    for jump in (-DAY_MS, 2 * DAY_MS, 0):
        parts.now += jump
        moved.append(await parts.queue.move_due())
    assert moved == [0, 1, 0]


async def test_dlv_4_what_expired_early_is_delivered_by_its_ack(parts: Parts) -> None:
    message_id = await parts.deliver(ttl_ms=DAY_MS)
    parts.now += 2 * DAY_MS
    assert await parts.expiry.sweep() == 1
    assert (await parts.status(message_id))[0] == "expired"
    parts.now -= 2 * DAY_MS
    await parts.ack(message_id)
    assert (await parts.status(message_id))[0] == "delivered"
