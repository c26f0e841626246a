"""队列里做不了的一项与失败的收件人是同一回事：同样的状态、一封死信、可以重新入队；分区也一样。"""

from __future__ import annotations

import pytest

from meeting_push.model import Message, Outgoing, QueueEntry
from meeting_push.outcome.dead_letters import DeadLetters
from meeting_push.queue.message_queue import MessageQueue
from tests.support.parts import USER, Parts
from tests.support.queueing import message_queue

OTHER = USER + 1
POISON = "poison"


@pytest.fixture(params=[1, 3])
def queue(parts: Parts, request: pytest.FixtureRequest) -> MessageQueue:
    async def on_dead(entry: QueueEntry, reason: str) -> None:
        pairs = [(entry.message_id, user_id) for user_id in entry.recipient_ids]
        await parts.failures.fail(pairs, reason, letters=False)

    return message_queue(
        parts.redis,
        max_length=100,
        partitions=request.param,
        on_dead=on_dead,
        clock=parts.clock,
    )


@pytest.fixture
def dead_letters(parts: Parts, queue: MessageQueue) -> DeadLetters:
    streams = [keys.dead_letter for keys in queue.partitions]
    return DeadLetters(parts.redis, parts.failures, streams=streams)


async def reject_one(parts: Parts, queue: MessageQueue) -> Message:
    message = await parts.accept(USER, OTHER)
    await parts.mailbox.open_status([Outgoing(message, (USER, OTHER))], parts.now)
    entry = QueueEntry(
        message_id=message.message_id,
        recipient_ids=(USER, OTHER),
        priority=0,
        expires_at=message.expires_at,
    )
    await queue.enqueue_message(entry)
    taken = await queue.dequeue_message(1)
    assert taken is not None
    await queue.reject(taken, POISON)
    await queue.close()
    return message


async def failed_count(parts: Parts, message_id: str) -> int:
    key = parts.redis.keys.delivery_status(message_id)
    return int(await parts.redis.lean.execute("HGET", key, "failed") or 0)


async def test_a_rejected_entry_fails_every_recipient(parts: Parts, queue: MessageQueue) -> None:
    message = await reject_one(parts, queue)
    for user_id in (USER, OTHER):
        assert await parts.status(message.message_id, user_id) == ("failed", POISON)
        assert await parts.redis_status(message.message_id, user_id) == "failed"
    assert await failed_count(parts, message.message_id) == 2


async def test_a_rejected_entry_is_one_letter(
    parts: Parts, queue: MessageQueue, dead_letters: DeadLetters
) -> None:
    message = await reject_one(parts, queue)
    [letter], _ = await dead_letters.page()
    assert letter.entry is not None
    assert letter.entry.message_id == message.message_id
    assert letter.reason == POISON


async def test_its_letter_is_requeued_for_all_and_gone(
    parts: Parts, queue: MessageQueue, dead_letters: DeadLetters
) -> None:
    message = await reject_one(parts, queue)
    [letter], _ = await dead_letters.page()
    assert await dead_letters.requeue([letter.id]) == [letter.id]
    assert await dead_letters.page() == ([], None)
    assert await failed_count(parts, message.message_id) == 0
    assert await queue.move_due() == 2
    taken = await queue.batch_dequeue(10, 1)
    await queue.close()
    assert sorted(user for item in taken for user in item.entry.recipient_ids) == [USER, OTHER]


async def test_letters_of_all_partitions_page_newest_first(
    parts: Parts, queue: MessageQueue, dead_letters: DeadLetters
) -> None:
    sent = [(await reject_one(parts, queue)).message_id for _ in range(5)]
    first, cursor = await dead_letters.page(limit=3)
    second, end = await dead_letters.page(cursor, limit=3)
    listed = [letter.entry.message_id for letter in (*first, *second) if letter.entry]
    assert listed == sent[::-1]
    assert end is None


async def test_expired_letters_are_dropped_everywhere(
    parts: Parts, queue: MessageQueue, dead_letters: DeadLetters
) -> None:
    for _ in range(5):
        await reject_one(parts, queue)
    parts.now += 120_000
    assert await dead_letters.drop_expired(parts.now) == 5
    assert await dead_letters.page() == ([], None)


async def test_a_retry_comes_out_of_the_queue(parts: Parts, queue: MessageQueue) -> None:
    message_id = await parts.deliver(USER)
    await parts.claim(message_id, 0)
    assert await queue.move_due() == 1
    taken = await queue.dequeue_message(1)
    await queue.close()
    assert taken is not None
    assert (taken.entry.message_id, taken.entry.attempt) == (message_id, 1)


TRACE = "Traceback (most recent call last):\n  File …\nmeeting_push.errors.{}: it was away\n"


async def die(parts: Parts, queue: MessageQueue, reason: str, error: str = "") -> str:
    """一封死信；``error`` 是处理它时记下的意外。"""
    message = await parts.accept(USER)
    await parts.mailbox.open_status([Outgoing(message, (USER,))], parts.now)
    entry = QueueEntry(
        message_id=message.message_id,
        recipient_ids=(USER,),
        priority=0,
        expires_at=message.expires_at,
    )
    await queue.enqueue_message(entry)
    taken = await queue.dequeue_message(1)
    assert taken is not None
    if error:
        await queue.settlement.note_error(taken, error)
    await queue.reject(taken, reason)
    await queue.close()
    return message.message_id


async def left(dead_letters: DeadLetters) -> set[str]:
    letters, _ = await dead_letters.page()
    return {letter.entry.message_id for letter in letters if letter.entry}


async def test_what_died_of_a_temporary_error_is_enqueued_again_and_nothing_else(
    parts: Parts, queue: MessageQueue, dead_letters: DeadLetters
) -> None:
    temporary = await die(
        parts, queue, "delivered_too_often", TRACE.format("RedisUnavailableError")
    )
    others = {
        await die(parts, queue, "delivered_too_often", TRACE.format("RedisCommandError")),
        await die(parts, queue, "delivered_too_often", "…\nKeyError: 'x'"),
        await die(parts, queue, "delivered_too_often"),  # 没有依赖不在：也许是它让工人死的
        await die(parts, queue, "body_gone"),
    }
    assert await left(dead_letters) == {temporary, *others}
    assert await dead_letters.requeue_temporary([], 10) == 1
    assert await left(dead_letters) == others
    assert await parts.status(temporary, USER) == ("pending", None)


async def test_what_nobody_could_hold_in_an_outage_is_enqueued_again(
    parts: Parts, queue: MessageQueue, dead_letters: DeadLetters
) -> None:
    await die(parts, queue, "delivered_too_often")
    gone = await die(parts, queue, "body_gone")
    [letter, _], _ = await dead_letters.page()
    died_at = letter.died_at
    before = [(died_at - 20_000, died_at - 10_000)]
    assert await dead_letters.requeue_temporary(before, 10) == 0
    during = [(died_at - 10_000, died_at + 10_000)]
    assert await dead_letters.requeue_temporary(during, 10) == 1
    assert await left(dead_letters) == {gone}


async def test_no_more_are_enqueued_again_than_asked_for(
    parts: Parts, queue: MessageQueue, dead_letters: DeadLetters
) -> None:
    for _ in range(3):
        await die(parts, queue, "delivered_too_often", TRACE.format("DatabaseUnavailableError"))
    assert await dead_letters.requeue_temporary([], 2) == 2
    assert len(await left(dead_letters)) == 1
