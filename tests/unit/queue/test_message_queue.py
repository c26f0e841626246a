"""队列：入队原子、不重、至少一次、优先而不饿死、满了拒绝、毒条目进死信。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from meeting_push.errors import QueueFullError
from meeting_push.model import QueueEntry
from meeting_push.queue.message_queue import MessageQueue
from meeting_push.queue.queue_reader import QueueReader, Taken
from meeting_push.redis.keys import DELIVERY_GROUP, QueueKeys
from meeting_push.redis.redis_service import RedisService
from tests.support.clocks import WallClock
from tests.support.queueing import message_queue


@pytest.fixture
def clock() -> WallClock:
    return WallClock(1_800_000_000_000)


@pytest.fixture
async def queue(redis: RedisService, clock: WallClock) -> AsyncIterator[MessageQueue]:
    one = message_queue(
        redis, max_length=5, starvation_bound=3, claim_idle_ms=0, max_deliveries=3, clock=clock
    )
    yield one
    await one.close()


@pytest.fixture
async def reader(queue: MessageQueue) -> AsyncIterator[QueueReader]:
    one = await queue.open_reader("x")
    yield one
    await one.close()


@pytest.fixture
async def other(queue: MessageQueue) -> AsyncIterator[QueueReader]:
    one = await queue.open_reader("y")
    yield one
    await one.close()


#: 流里的 id：1970 年的。
LONG_AGO = "1-1"


def entry(name: str, priority: int = 0) -> QueueEntry:
    return QueueEntry(
        message_id=name.rjust(26, "0"), recipient_ids=(1, 2), priority=priority, expires_at=1
    )


def names(taken: list[Taken]) -> list[str]:
    return [item.entry.message_id.lstrip("0") for item in taken]


def home(redis: RedisService) -> QueueKeys:
    """不分区的队列的键；在 Cluster 上也带着 tag。"""
    return QueueKeys.of(redis.keys, 1)[0]


async def dead_letters(redis: RedisService) -> list[dict[bytes, bytes]]:
    rows = await redis.lean.execute("XRANGE", home(redis).dead_letter, "-", "+")
    return [dict(zip(flat[::2], flat[1::2], strict=True)) for _, flat in rows]


# ── 入队 ────────────────────────────────────────────────────────────────────


async def test_what_is_enqueued_is_taken_in_order(queue: MessageQueue, reader: QueueReader) -> None:
    await queue.batch_enqueue([entry("A"), entry("B")])
    await queue.enqueue_message(entry("C"))
    assert names(await reader.take(10, 0)) == ["A", "B", "C"]


async def test_what_is_queued_already_is_not_added(
    queue: MessageQueue, reader: QueueReader
) -> None:
    await queue.batch_enqueue([entry("A"), entry("A"), entry("B")])
    await queue.batch_enqueue([entry("B"), entry("A")])
    assert names(await reader.take(10, 0)) == ["A", "B"]


async def test_what_is_in_hand_is_not_added(queue: MessageQueue, reader: QueueReader) -> None:
    await queue.enqueue_message(entry("A"))
    await reader.take(10, 0)
    await queue.enqueue_message(entry("A"))
    assert await reader.take(10, 0) == []


async def test_what_was_acknowledged_may_be_enqueued_again(
    queue: MessageQueue, reader: QueueReader
) -> None:
    for _ in range(2):
        await queue.enqueue_message(entry("A"))
        taken = await reader.take(10, 0)
        assert names(taken) == ["A"]
        await queue.acknowledge(taken)


async def test_dlv_1_what_someone_trimmed_from_the_stream_can_be_enqueued_again(
    queue: MessageQueue, reader: QueueReader, redis: RedisService
) -> None:
    await queue.enqueue_message(entry("A"))
    await redis.lean.execute("XTRIM", home(redis).delivery, "MAXLEN", 0)
    await queue.enqueue_message(entry("A"))
    assert names(await reader.take(10, 0)) == ["A"]


async def test_the_memory_of_what_is_queued_ends_with_the_queue(
    queue: MessageQueue, reader: QueueReader, redis: RedisService, key_prefix: str
) -> None:
    await queue.batch_enqueue([entry(str(i)) for i in range(5)])
    await queue.acknowledge(await reader.take(10, 0))
    found = await redis.lean.everywhere("KEYS", f"{key_prefix}*")
    left = {key.decode() for keys in found for key in keys}
    assert left == set(home(redis).streams)


async def test_the_same_message_to_others_is_another_entry(
    queue: MessageQueue, reader: QueueReader
) -> None:
    first = entry("A")
    await queue.enqueue_message(first)
    others = QueueEntry(message_id=first.message_id, recipient_ids=(3,), priority=0, expires_at=1)
    await queue.enqueue_message(others)
    assert [t.entry.recipient_ids for t in await reader.take(10, 0)] == [(1, 2), (3,)]


async def test_a_full_queue_refuses_the_whole_batch_and_trims_nothing(
    queue: MessageQueue, reader: QueueReader
) -> None:
    await queue.batch_enqueue([entry(str(i)) for i in range(1, 5)])
    with pytest.raises(QueueFullError):
        await queue.batch_enqueue([entry("5"), entry("6")])
    assert names(await reader.take(10, 0)) == ["1", "2", "3", "4"]


async def test_a_full_queue_takes_what_it_has_already(queue: MessageQueue) -> None:
    await queue.batch_enqueue([entry(str(i)) for i in range(5)])
    await queue.batch_enqueue([entry(str(i)) for i in range(5)])


async def test_there_is_no_room_at_the_limit(queue: MessageQueue) -> None:
    await queue.batch_enqueue([entry(str(i)) for i in range(5)])
    with pytest.raises(QueueFullError):
        queue.room.check()


# ── 取 ──────────────────────────────────────────────────────────────────────


async def test_urgent_entries_are_taken_first(queue: MessageQueue, reader: QueueReader) -> None:
    await queue.batch_enqueue([entry("A"), entry("B", 9)])
    await queue.enqueue_message(entry("C"), priority=5)
    assert names(await reader.take(10, 0)) == ["B", "C", "A"]


async def test_the_normal_queue_does_not_starve(queue: MessageQueue, reader: QueueReader) -> None:
    await queue.batch_enqueue([entry("N"), *(entry(f"U{i}", 9) for i in range(4))])
    taken = [name for _ in range(3) for name in names(await reader.take(1, 0))]
    assert taken == ["U0", "U1", "N"]


async def test_dequeue_waits_for_an_entry(queue: MessageQueue) -> None:
    waiting = asyncio.create_task(queue.dequeue_message(timeout=10))
    await asyncio.sleep(0)
    await queue.enqueue_message(entry("A"))
    taken = await waiting
    assert taken is not None
    assert names([taken]) == ["A"]


async def test_dequeue_gives_up_after_the_timeout(queue: MessageQueue) -> None:
    assert await queue.dequeue_message(timeout=0) is None


async def test_dequeue_loses_nothing_when_both_queues_answer_at_once(queue: MessageQueue) -> None:
    waiting = asyncio.create_task(queue.batch_dequeue(1, 10))
    await asyncio.sleep(0)
    await queue.batch_enqueue([entry("A"), entry("B", 9)])
    taken = await waiting + await queue.batch_dequeue(10, 0)
    assert sorted(names(taken)) == ["A", "B"]


async def test_a_missing_consumer_group_is_made_again(
    queue: MessageQueue, reader: QueueReader, redis: RedisService
) -> None:
    await redis.client.delete(home(redis).delivery, home(redis).priority)
    assert await reader.take(10, 0) == []
    await queue.enqueue_message(entry("A"))
    assert names(await reader.take(10, 0)) == ["A"]


async def test_claiming_makes_a_missing_consumer_group_again(
    queue: MessageQueue, reader: QueueReader, redis: RedisService
) -> None:
    await redis.client.delete(home(redis).delivery, home(redis).priority)
    assert await reader.claim(10) == []
    await queue.enqueue_message(entry("A"))
    assert names(await reader.take(10, 0)) == ["A"]


async def test_two_readers_of_one_name_share_the_work(queue: MessageQueue) -> None:
    twins = [await queue.open_reader("same") for _ in range(2)]
    await queue.batch_enqueue([entry("A"), entry("B")])
    taken = [*await twins[0].take(1, 0), *await twins[1].take(1, 0)]
    for twin in twins:
        await twin.close()
    assert names(taken) == ["A", "B"]


# ── 了结 ────────────────────────────────────────────────────────────────────


async def test_dlv_1_an_unacknowledged_entry_is_claimed_by_another(
    queue: MessageQueue, reader: QueueReader, other: QueueReader
) -> None:
    await queue.enqueue_message(entry("A"))
    await reader.take(10, 0)
    assert names(await other.claim(10)) == ["A"]


async def test_every_entry_is_claimed_in_the_end(
    redis: RedisService, reader: QueueReader, other: QueueReader
) -> None:
    queue = message_queue(redis, max_length=100)
    await queue.batch_enqueue([entry(f"{i:03}") for i in range(50)])
    await reader.take(100, 0)
    claimed = [name for _ in range(25) for name in names(await other.claim(2))]
    assert sorted(claimed) == sorted(f"{i:03}".lstrip("0") for i in range(50))


async def test_an_acknowledged_entry_is_gone(
    queue: MessageQueue, reader: QueueReader, other: QueueReader
) -> None:
    await queue.enqueue_message(entry("A"))
    await queue.acknowledge(await reader.take(10, 0))
    assert await other.claim(10) == []
    assert all(one.length == one.pending == one.lag == 0 for one in await queue.lengths())


async def test_a_rejected_entry_is_in_the_dead_letters_with_its_reason(
    queue: MessageQueue, reader: QueueReader, other: QueueReader, redis: RedisService
) -> None:
    await queue.enqueue_message(entry("A"))
    [taken] = await reader.take(10, 0)
    await queue.reject(taken, "no such body")
    await queue.reject(taken, "no such body")
    assert [one[b"reason"] for one in await dead_letters(redis)] == [b"no such body"]
    assert await other.claim(10) == []


async def test_a_rejected_entry_can_come_back_later(
    queue: MessageQueue, reader: QueueReader, clock: WallClock
) -> None:
    await queue.enqueue_message(entry("A", 7))
    [taken] = await reader.take(10, 0)
    await queue.reject(taken, "busy", requeue_after_ms=1_000)
    assert await reader.claim(10) == []
    assert await queue.move_due() == 0
    clock.now += 1_000
    assert await queue.move_due() == 1
    assert names(await reader.take(10, 0)) == ["A"]


async def test_an_entry_delivered_too_often_is_poison_and_keeps_its_last_error(
    queue: MessageQueue, reader: QueueReader, redis: RedisService
) -> None:
    await queue.enqueue_message(entry("A"))
    [taken] = await reader.take(10, 0)
    for attempt in range(1, 4):
        await queue.settlement.note_error(taken, f"Traceback: attempt {attempt}")
        claimed = await reader.claim(10)
        assert names(claimed) == (["A"] if attempt < 3 else [])
    [letter] = await dead_letters(redis)
    assert letter[b"reason"] == b"delivered_too_often"
    assert letter[b"error"] == b"Traceback: attempt 3"


async def test_what_is_held_never_becomes_poison(queue: MessageQueue, reader: QueueReader) -> None:
    await queue.enqueue_message(entry("A"))
    taken = await reader.take(10, 0)
    for _ in range(5):
        await queue.settlement.hold("x", taken)
        assert names(await reader.claim(10)) == ["A"]


async def test_an_entry_that_vanished_from_the_stream_leaves_the_group(
    queue: MessageQueue, reader: QueueReader, other: QueueReader, redis: RedisService
) -> None:
    await queue.enqueue_message(entry("A"))
    await reader.take(10, 0)
    await redis.lean.execute("XTRIM", home(redis).delivery, "MAXLEN", 0)
    assert await other.claim(10) == []
    assert {one.pending for one in await queue.streams.members()} == {0}


@pytest.mark.parametrize(
    "fields",
    [
        ("v", "2", "entry", "{}"),
        ("v", "1", "entry", "{"),
        ("v", "1", "entry", '{"message_id": 5}'),
        ("v", "1", "entry", "[" * 5_000),
        ("v", "1"),
        ("x", "y"),
        ("v", "1", "entry", b"\xff"),
    ],
    ids=["version", "json", "types", "nested", "missing", "foreign", "utf-8"],
)
async def test_a_malformed_entry_goes_to_the_dead_letters_and_does_not_block(
    queue: MessageQueue,
    reader: QueueReader,
    redis: RedisService,
    fields: tuple[str | bytes, ...],
) -> None:
    await redis.lean.execute("XADD", home(redis).delivery, LONG_AGO, *fields)
    await queue.enqueue_message(entry("A"))
    assert names(await reader.take(10, 0)) == ["A"]
    assert len(await dead_letters(redis)) == reader.malformed == 1


NEWER = ("v", "2", "body", "what only the next version reads")


@pytest.mark.parametrize("at", [LONG_AGO, "*"], ids=["mixed fleet", "young"])
async def test_an_entry_of_a_newer_version_is_left_to_who_reads_it(
    queue: MessageQueue,
    reader: QueueReader,
    other: QueueReader,
    redis: RedisService,
    at: str,
) -> None:
    """滚动升级：不进死信，取多少次也不算毒；刚来的，它的节点也许还没有人知道。"""
    queue.settlement.mixed = lambda: at == LONG_AGO
    stream = home(redis).delivery
    await redis.lean.execute("XADD", stream, at, *NEWER)
    await queue.enqueue_message(entry("A"))
    taken = await reader.take(10, 0)
    await queue.acknowledge(taken)
    claimed = [await one.claim(10) for _ in range(5) for one in (reader, other)]
    assert names(taken) == ["A"]
    assert claimed == [[]] * 10
    assert await dead_letters(redis) == []
    first = await redis.lean.execute("XPENDING", stream, DELIVERY_GROUP, "-", "+", 1)
    assert first[0][3] == 0  # 取出的次数


async def test_an_entry_of_a_newer_version_nobody_reads_goes_to_the_dead_letters(
    queue: MessageQueue, reader: QueueReader, redis: RedisService
) -> None:
    await redis.lean.execute("XADD", home(redis).delivery, LONG_AGO, *NEWER)
    assert await reader.take(10, 0) == []
    assert [letter[b"reason"] for letter in await dead_letters(redis)] == [b"unknown entry version"]


# ── 延迟 ────────────────────────────────────────────────────────────────────


async def test_a_scheduled_entry_moves_when_it_is_due(
    queue: MessageQueue, reader: QueueReader, clock: WallClock
) -> None:
    await queue.schedule([(entry("A", 9), clock.now + 1_000), (entry("B"), clock.now + 5_000)])
    assert await queue.move_due() == 0
    clock.now += 1_000
    assert await queue.move_due() == 1
    assert names(await reader.take(10, 0)) == ["A"]


async def test_a_clock_that_jumps_back_and_forth_delivers_once(
    queue: MessageQueue, reader: QueueReader, clock: WallClock
) -> None:
    await queue.schedule([(entry("A"), clock.now + 1_000)])
    moved = []
    for jump in (-86_400_000, 2 * 86_400_000, -86_400_000, 1_000):
        clock.now += jump
        moved.append(await queue.move_due())
    assert moved == [0, 1, 0, 0]
    assert names(await reader.take(10, 0)) == ["A"]


async def test_what_is_due_waits_while_the_queue_is_full(
    queue: MessageQueue, reader: QueueReader, clock: WallClock
) -> None:
    await queue.batch_enqueue([entry(str(i)) for i in range(5)])
    await queue.schedule([(entry("A"), clock.now)])
    assert await queue.move_due() == 0
    await queue.acknowledge(await reader.take(10, 0))
    assert await queue.move_due() == 1


async def test_what_is_due_and_queued_already_is_not_added(
    queue: MessageQueue, reader: QueueReader, clock: WallClock
) -> None:
    await queue.enqueue_message(entry("A"))
    await queue.schedule([(entry("A"), clock.now)])
    assert await queue.move_due() == 1
    assert names(await reader.take(10, 0)) == ["A"]


async def test_an_unscheduled_message_is_gone_and_remembered(
    queue: MessageQueue, clock: WallClock
) -> None:
    due = clock.now + 1_000
    await queue.schedule([(entry("A"), due), (entry("B"), due)])
    assert await queue.unschedule(entry("A").message_id, due) == 1
    assert await queue.streams.cancelled([entry("A").message_id, entry("B").message_id]) == {
        entry("A").message_id
    }
    clock.now = due
    assert await queue.move_due() == 1


# ── 观察 ────────────────────────────────────────────────────────────────────


async def test_lengths_tell_pending_from_lag(
    queue: MessageQueue, reader: QueueReader, redis: RedisService
) -> None:
    await queue.batch_enqueue([entry("A"), entry("B"), entry("C")])
    await reader.take(1, 0)
    [row] = [one for one in await queue.lengths() if one.name == home(redis).delivery]
    assert (row.length, row.pending, row.lag) == (3, 1, 2)


async def test_the_delayed_queue_tells_how_late_it_is(
    queue: MessageQueue, clock: WallClock
) -> None:
    await queue.schedule([(entry("A"), clock.now - 250)])
    assert [
        one.oldest_age_ms for one in await queue.lengths() if "delayed_message_queue" in one.name
    ] == [250]


async def test_the_dead_name_goes_only_after_its_entries_were_claimed(
    queue: MessageQueue, reader: QueueReader, other: QueueReader
) -> None:
    async def known() -> set[str]:
        return {one.name for one in await queue.streams.members()}

    await queue.enqueue_message(entry("A"))
    await reader.take(10, 0)
    await queue.streams.retire("x")
    assert "x" in await known()
    await queue.acknowledge(await other.claim(10))
    await queue.streams.retire_idle(0)
    assert await known() == set()


# ── 分区 ────────────────────────────────────────────────────────────────────


@pytest.fixture
async def parted(redis: RedisService, clock: WallClock) -> AsyncIterator[MessageQueue]:
    one = message_queue(redis, max_length=100, claim_idle_ms=0, partitions=3, clock=clock)
    yield one
    await one.close()


async def test_partitions_have_a_hash_tag_and_share_no_slot(parted: MessageQueue) -> None:
    streams = [keys.delivery for keys in parted.partitions]
    assert [name[name.index("{") :] for name in streams] == ["{q0}", "{q1}", "{q2}"]


async def test_all_partitions_are_read_claimed_and_acknowledged(parted: MessageQueue) -> None:
    sent = [f"{i:02}" for i in range(20)]
    await parted.batch_enqueue([entry(f"N{name}") for name in sent])
    taken: list[Taken] = []
    while batch := await parted.batch_dequeue(7, 0):
        assert len(batch) <= 7
        taken += batch
    assert sorted(names(taken)) == [f"N{name}" for name in sent]
    assert len({item.queue for item in taken}) == 3
    await parted.acknowledge(taken)
    assert await parted.streams.backlog() == 0


async def test_a_partition_schedules_within_itself(parted: MessageQueue, clock: WallClock) -> None:
    await parted.schedule([(entry(f"N{i}"), clock.now) for i in range(10)])
    assert await parted.move_due() == 10
    assert len({(await parted.dequeue_message(0)) is not None for _ in range(10)}) == 1


async def test_the_group_has_the_name_of_the_contract(
    reader: QueueReader, redis: RedisService
) -> None:
    [flat] = await redis.lean.execute("XINFO", "GROUPS", home(redis).delivery)
    assert flat[flat.index(b"name") + 1].decode() == DELIVERY_GROUP
