"""分区的数目改过，队列里还有东西：留在从前那些分区里的，一样也不丢。"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from meeting_push.queue.message_queue import MessageQueue
from meeting_push.redis.keys import QueueKeys
from meeting_push.redis.redis_service import RedisService
from tests.support.clocks import WallClock
from tests.support.queueing import message_queue

from .test_message_queue import LONG_AGO, NEWER, entry, names

Divided = Callable[[int], MessageQueue]


@pytest.fixture
def clock() -> WallClock:
    return WallClock(1_800_000_000_000)


@pytest.fixture
async def divided(redis: RedisService, clock: WallClock) -> AsyncIterator[Divided]:
    """分成几份的队列，各自是一个进程的。"""
    queues: list[MessageQueue] = []

    def divide(partitions: int) -> MessageQueue:
        queues.append(
            message_queue(
                redis, max_length=100, claim_idle_ms=0, partitions=partitions, clock=clock
            )
        )
        return queues[-1]

    yield divide
    for queue in queues:
        await queue.close()


SENT = [f"N{number:02}" for number in range(30)]


async def taken_names(queue: MessageQueue) -> list[str]:
    """全部取出、了结。"""
    found: list[str] = []
    while await queue.bring_strays_home() or await queue.move_due():
        pass
    reader = await queue.open_reader("heir")
    batch = await reader.claim(100)  # 死了的消费者手里的
    while batch or (batch := await reader.take(10, 0)):
        found += names(batch)
        await queue.acknowledge(batch)
        batch = []
    await reader.close()
    return sorted(found)


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (3, 2), (2, 3), (64, 1)])
async def test_dlv_1_what_waits_when_the_number_changes_is_delivered(
    divided: Divided, clock: WallClock, before: int, after: int
) -> None:
    old, new = divided(before), divided(after)
    await old.batch_enqueue([entry(name, number % 10) for number, name in enumerate(SENT[:10])])
    await old.batch_enqueue(map(entry, SENT[10:20]), bulk=True)
    await old.schedule([(entry(name), clock.now) for name in SENT[20:25]])
    await old.schedule([(entry(name), clock.now) for name in SENT[25:]], bulk=True)
    assert await taken_names(new) == SENT
    assert [one.length for one in await old.lengths() if one.length] == []


async def test_dlv_1_what_a_dead_consumer_of_the_old_number_held_is_delivered(
    divided: Divided,
) -> None:
    old, new = divided(3), divided(1)
    await old.batch_enqueue(map(entry, SENT))
    assert len(await old.batch_dequeue(100, 0)) == 30
    assert await taken_names(new) == SENT


async def test_what_is_not_due_yet_keeps_its_hour(divided: Divided, clock: WallClock) -> None:
    old, new = divided(3), divided(1)
    await old.schedule([(entry(name), clock.now + 1_000) for name in SENT])
    assert await taken_names(new) == []
    clock.now += 1_000
    assert await taken_names(new) == SENT


async def test_what_is_cancelled_after_the_change_is_known_to_be(
    divided: Divided, clock: WallClock
) -> None:
    old, new = divided(3), divided(1)
    await old.schedule([(entry("A"), clock.now)])
    await old.move_due()
    wanted = entry("A").message_id
    await new.unschedule(wanted, clock.now)
    await new.bring_strays_home()
    await new.move_due()
    [taken] = await new.batch_dequeue(10, 0)
    assert taken.scheduled
    assert await new.streams.cancelled([wanted]) == {wanted}


async def test_dead_letters_move_to_where_they_are_listed(
    divided: Divided, redis: RedisService
) -> None:
    old, new = divided(3), divided(1)
    await old.batch_enqueue(map(entry, SENT[:5]))
    for taken in await old.batch_dequeue(10, 0):
        await old.reject(taken, "poison")
    while await new.bring_strays_home():
        pass
    rows = await redis.lean.execute("XRANGE", redis.keys.dead_letter_queue, "-", "+")
    letters = [dict(zip(flat[::2], flat[1::2], strict=True)) for _, flat in rows]
    if new.partitions[0].dead_letter == redis.keys.dead_letter_queue:
        assert [one[b"reason"] for one in letters] == [b"poison"] * 5
    else:  # 带着 tag 的 {q0} 还是分区之一，它的留在那里
        kept = await redis.lean.execute("XLEN", new.partitions[0].dead_letter)
        assert len(letters) + kept == 5


async def test_what_nobody_can_read_becomes_a_letter(divided: Divided, redis: RedisService) -> None:
    old, new = divided(3), divided(1)
    stream = old.partitions[2].delivery
    await redis.lean.execute("XADD", stream, LONG_AGO, "v", "1", "entry", "not json", "d", "x")
    while await new.bring_strays_home():
        pass
    [(_, flat)] = await redis.lean.execute("XRANGE", redis.keys.dead_letter_queue, "-", "+")
    assert dict(zip(flat[::2], flat[1::2], strict=True))[b"queue"] == stream.encode()
    assert await redis.lean.execute("XLEN", stream) == 0


async def test_what_a_newer_program_wrote_waits_for_it(
    divided: Divided, redis: RedisService
) -> None:
    old, new = divided(3), divided(1)
    stream = old.partitions[2].delivery
    await redis.lean.execute("XADD", stream, "*", *NEWER)
    assert await new.bring_strays_home() == 0
    assert await redis.lean.execute("XLEN", stream) == 1


def test_the_names_of_every_other_number_are_known(redis: RedisService) -> None:
    ours = QueueKeys.of(redis.keys, 2)
    others = QueueKeys.others(redis.keys, 2)
    assert len({one.delivery for one in (*ours, *others)}) == 65
