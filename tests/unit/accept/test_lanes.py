"""A5、E11：洪水与一起到期的走慢的那条，此刻的消息不排在它们后面。看次序与条数，不看钟。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from sqlalchemy import func, select

from meeting_push.accept.outbox_relay import OutboxRelay
from meeting_push.clock import now_ms
from meeting_push.errors import QueueFullError
from meeting_push.limits.send_limits import FairShares
from meeting_push.model import Message, Outgoing, QueueEntry, Sender
from meeting_push.queue.message_queue import DUE_BULK_ROOM, DUE_LIVE, MessageQueue
from meeting_push.queue.queue_reader import BULK_ENTRY_COST, BULK_RECIPIENTS, QueueReader
from meeting_push.redis.redis_service import RedisService
from meeting_push.storage.tables import messages as message_table
from meeting_push.supervision import Aside
from tests.support.eventually import eventually
from tests.support.parts import Parts
from tests.support.queueing import message_consumer, message_queue, outbox_turn

MALLORY, WITNESS = 1, 2
SHARE = 100


@pytest.fixture
async def reader(parts: Parts) -> AsyncIterator[QueueReader]:
    reader = await parts.queue.open_reader("reader")
    yield reader
    await reader.close()


def relay_of(parts: Parts, queue: MessageQueue | None = None) -> OutboxRelay:
    return OutboxRelay(
        messages=parts.messages,
        queue=queue or parts.queue,
        mailbox=parts.mailbox,
        chunk_recipients=500,
        shares=FairShares(SHARE, SHARE),
        interval_s=60,
        grace_s=0,
        clock=parts.clock,
        aside=Aside("outbox"),
        turn=outbox_turn(parts.redis),
    )


async def flood(parts: Parts, messages: int, recipients: int = 150) -> list[Message]:
    """mallory 的，最急的。"""
    to = range(1_000, 1_000 + recipients)
    return [
        await parts.accept(*to, sender=Sender(MALLORY, "m"), priority=9) for _ in range(messages)
    ]


async def submitted(relay: OutboxRelay, *posts: tuple[Message, Sequence[int]]) -> None:
    """快路送完这些。"""
    relay.submit(Outgoing(*post) for post in posts)
    await relay.drain()


def message(name: str) -> Message:
    return Message(
        message_id=name,
        message_type="message",
        priority=0,
        title="t",
        content="c",
        sender=Sender(1, "a"),
        timestamp=0,
        expires_at=1,
    )


def entry(name: str, recipients: int = 1, priority: int = 0) -> QueueEntry:
    return QueueEntry(
        message_id=name,
        recipient_ids=tuple(range(1, recipients + 1)),
        priority=priority,
        expires_at=now_ms() + 3_600_000,
    )


def names(taken: Sequence[object]) -> list[str]:
    return [item.entry.message_id for item in taken]  # type: ignore[attr-defined]


async def emptied(redis: RedisService, key: str) -> None:
    async def is_empty() -> bool:
        return await length(redis, key) == 0

    await eventually(is_empty)


async def length(redis: RedisService, key: str) -> int:
    return int(await redis.lean.execute("XLEN", key))


async def test_a5_a_witness_behind_a_flood_is_taken_first(
    parts: Parts, reader: QueueReader
) -> None:
    """A5：mallory 的洪水先到、优先级 9；后到的普通消息仍然第一批就取到。"""
    relay = relay_of(parts)
    wave = [(one, range(1_000, 1_150)) for one in await flood(parts, 30)]
    witness = await parts.accept(7, sender=Sender(WITNESS, "w"))
    await submitted(relay, *wave, (witness, [7]))
    assert names(await reader.take(100, 0)) == [witness.message_id]


async def test_a5_a_sweep_is_as_fair_as_the_fast_path(parts: Parts, reader: QueueReader) -> None:
    await flood(parts, 10)
    witness = await parts.accept(7, sender=Sender(WITNESS, "w"))
    parts.now += 1
    await relay_of(parts).sweep(0)
    assert names(await reader.take(100, 0)) == [witness.message_id]


async def test_a5_the_flood_arrives_too(parts: Parts, reader: QueueReader) -> None:
    wave = await flood(parts, 10)
    await submitted(relay_of(parts), *((one, range(1_000, 1_150)) for one in wave))
    taken: list[str] = []
    while batch := await reader.take(100, 0):
        taken += names([*batch, *reader.surplus()])
    assert taken == [one.message_id for one in wave]


async def test_a5_a_full_slow_lane_is_its_senders_affair(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """慢的那条满了：mallory 的留在发件箱、再发就 429，别人照收、照送。"""
    monkeypatch.setattr("meeting_push.accept.outbox_relay.BATCH_MESSAGES", 5)
    queue = message_queue(parts.redis, max_length=5, clock=parts.clock)
    relay = relay_of(parts, queue)
    await flood(parts, 12)
    witness = await parts.accept(7, sender=Sender(WITNESS, "w"))
    parts.now += 1
    await queue.batch_enqueue([entry(f"old{n}") for n in range(5)], bulk=True)
    with pytest.raises(QueueFullError):
        await relay.sweep(0)
    assert await length(parts.redis, parts.redis.keys.delivery_queue) == 1
    with pytest.raises(QueueFullError):
        relay.check_share(MALLORY)
    relay.check_share(WITNESS)
    queue.room.check()
    async with parts.database.connect() as connection:
        left = await connection.scalar(
            select(func.count()).where(message_table.c.enqueued_at.is_(None))
        )
    assert left == 12
    assert witness.message_id


async def test_a5_a_live_entry_waits_for_one_slice_of_the_slow_lane(
    parts: Parts, reader: QueueReader
) -> None:
    await parts.queue.batch_enqueue([entry(f"b{n}", 150) for n in range(20)], bulk=True)
    first = await reader.take(100, 0)
    assert sum(len(t.entry.recipient_ids) for t in first) >= BULK_RECIPIENTS
    assert len(first) == -(-BULK_RECIPIENTS // 150)
    await parts.queue.batch_enqueue([entry("live")])
    assert names(await reader.take(100, 0)) == ["live"]
    assert names(await reader.take(100, 0)) == [f"b{n}" for n in range(len(first), 2 * len(first))]


async def test_a5_while_nothing_live_comes_the_slices_are_larger(
    parts: Parts, reader: QueueReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    await parts.queue.batch_enqueue([entry(f"b{n}", 150) for n in range(60)], bulk=True)
    first = await reader.take(100, 0)
    monkeypatch.setattr("meeting_push.queue.room.CALM_S", -1.0)
    assert len(await reader.take(100, 0)) > len(first)


async def test_a5_the_slow_lane_moves_even_when_there_is_always_something_live(
    redis: RedisService,
) -> None:
    queue = message_queue(redis, max_length=1_000, starvation_bound=3)
    reader = await queue.open_reader("r")
    await queue.batch_enqueue([entry("slow")], bulk=True)
    taken = []
    for n in range(3):
        await queue.batch_enqueue([entry(f"live{n}")])
        taken += names(await reader.take(1, 0))
    await reader.close()
    assert "slow" in taken


async def test_a5_a_waiting_consumer_wakes_for_the_slow_lane_too(
    parts: Parts, reader: QueueReader
) -> None:
    waiting = asyncio.create_task(reader.take(10, 5))

    async def blocked() -> bool:
        return (await parts.redis.info()).blocked_clients > 0

    await eventually(blocked)
    await parts.queue.batch_enqueue([entry("slow")], bulk=True)
    assert names(await waiting) == ["slow"]


async def test_a5_who_may_not_takes_nothing_of_the_slow_lane(
    parts: Parts, reader: QueueReader
) -> None:
    await parts.queue.batch_enqueue([entry("slow")], bulk=True)
    assert await reader.take(10, 0, bulk=False) == []


async def test_a5_one_consumer_at_least_is_left_for_what_is_live(parts: Parts) -> None:
    """一个占着慢的那条，另一个只做此刻的。"""
    slots = asyncio.Semaphore(1)
    await slots.acquire()
    one = message_consumer(
        *("c", parts.queue, parts.mailbox),
        batch_entries=10,
        block_ms=50,
        claim_every_ms=60_000,
        bulk_slots=slots,
        clock=parts.clock,
    )
    slow = await parts.accept(7)
    live = await parts.accept(8)
    for message, bulk in ((slow, True), (live, False)):
        item = entry(message.message_id)
        await parts.queue.batch_enqueue([item], bulk=bulk)
    running = asyncio.create_task(one.run())
    await emptied(parts.redis, parts.redis.keys.delivery_queue)
    assert await length(parts.redis, parts.redis.keys.bulk_queue) == 1
    slots.release()
    await emptied(parts.redis, parts.redis.keys.bulk_queue)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert slots._value == 1


async def test_a4_the_slow_lane_waits_for_the_mailbox_it_overfilled(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """一段灌满了信箱，就等它挤好再做下一段：洪水再大，信箱也只多出一段。"""
    monkeypatch.setattr("meeting_push.queue.message_consumer.TRIM_WAIT_S", 60)
    monkeypatch.setattr("meeting_push.queue.message_consumer.OVERFLOWS", 1)
    monkeypatch.setattr("meeting_push.queue.room.CALM_S", 60.0)  # 清闲了，一段更大
    parts = Parts(parts.redis, parts.database, mailbox_max_entries=10)
    many = [await parts.accept(7, sender=Sender(MALLORY, "m")) for _ in range(60)]
    await parts.mailbox.store_bodies([(m.message_id, b"}", 0, m.expires_at) for m in many])
    await parts.queue.batch_enqueue(
        [msgspec.structs.replace(entry(m.message_id), recipient_ids=(7,)) for m in many], bulk=True
    )
    consumer = message_consumer(
        *("c", parts.queue, parts.mailbox),
        batch_entries=10,
        block_ms=50,
        claim_every_ms=60_000,
        clock=parts.clock,
    )
    running = asyncio.create_task(consumer.run())
    for _ in range(3):
        await asyncio.wait_for(parts.mailbox.overflow.noted.wait(), 10)
        await eventually(lambda: 7 in parts.mailbox.overflow.waited_for)
        assert len(await parts.held(7)) <= 10 + BULK_RECIPIENTS // (1 + BULK_ENTRY_COST)
        await parts.evictor.sweep()
    await emptied(parts.redis, parts.redis.keys.bulk_queue)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(await parts.held(7)) == 10


async def test_a4_what_one_consumer_sees_of_the_live_traffic_all_know(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A4: 做慢的那条的自己不取此刻的消息：它以为没有人在等，一段就做几千份。"""
    monkeypatch.setattr("meeting_push.queue.room.CALM_S", 0.0)
    one, other = await parts.queue.open_reader("one"), await parts.queue.open_reader("other")
    assert one.calm
    monkeypatch.setattr("meeting_push.queue.room.CALM_S", 60.0)
    await parts.queue.batch_enqueue([entry("live")])
    assert names(await other.take(1, 1)) == ["live"]
    assert not one.calm
    await one.close()
    await other.close()


async def test_a5_what_a_dead_consumer_had_of_the_slow_lane_is_claimed(
    redis: RedisService,
) -> None:
    queue = message_queue(redis, max_length=100, claim_idle_ms=0)
    dead, other = await queue.open_reader("dead"), await queue.open_reader("other")
    await queue.batch_enqueue([entry(f"b{n}", 150) for n in range(9)], bulk=True)
    await dead.take(100, 0)
    assert await other.claim(100) == []
    taken: list[str] = []
    while batch := await other.take(100, 0):
        taken += names(batch)
    assert taken == [f"b{n}" for n in range(9)]
    await dead.close()
    await other.close()


# ── 一起到期的 ───────────────────────────────────────────────────────────────


async def scheduled(queue: MessageQueue, count: int) -> None:
    entries = [(entry(f"due{n}"), 1) for n in range(count)]
    for start in range(0, count, 5_000):
        await queue.schedule(entries[start : start + 5_000])


async def test_e11_what_falls_due_at_once_does_not_fill_the_queues(redis: RedisService) -> None:
    """E11：几万条一起到期：快的两条只收一小份，慢的那条也有余地，其余的等着；照收新的。"""
    queue = message_queue(redis, max_length=5_000)
    await scheduled(queue, 10_000)
    moved = await queue.move_due()
    while moved:
        moved = await queue.move_due(live=0)
    assert await length(redis, redis.keys.delivery_queue) == DUE_LIVE
    assert await length(redis, redis.keys.bulk_queue) == DUE_BULK_ROOM
    left = await redis.lean.execute("ZCARD", redis.keys.delayed_queue)
    assert left == 10_000 - DUE_LIVE - DUE_BULK_ROOM
    await queue.batch_enqueue([entry("live")])
    queue.room.check()


async def test_e11_a_live_message_waits_for_a_small_part_of_what_fell_due(
    redis: RedisService,
) -> None:
    queue = message_queue(redis, max_length=5_000)
    await scheduled(queue, 3_000)
    moved = await queue.move_due()
    while moved:
        moved = await queue.move_due(live=0)
    await queue.batch_enqueue([entry("live")])
    reader = await queue.open_reader("r")
    taken: list[str] = []
    while "live" not in taken:
        taken += names([*await reader.take(100, 0), *reader.surplus()])
    await reader.close()
    assert len(taken) <= DUE_LIVE + 100


async def test_e11_everything_that_fell_due_is_moved_in_the_end(redis: RedisService) -> None:
    queue = message_queue(redis, max_length=5_000)
    await scheduled(queue, 3_000)
    reader = await queue.open_reader("r")
    taken: set[str] = set()
    while moved := await queue.move_due() or await length(redis, redis.keys.bulk_queue):
        while batch := await reader.take(500, 0):
            batch += reader.surplus()
            taken.update(names(batch))
            await queue.acknowledge(batch)
        assert moved
    await reader.close()
    assert taken == {f"due{n}" for n in range(3_000)}


async def test_a5_a_flood_of_scheduled_messages_does_not_hold_up_anothers(parts: Parts) -> None:
    """mallory 预约的先到期，另有一只集合；witness 的不排在它们后面。"""
    relay = relay_of(parts)
    due = parts.now + 1_000
    wave = [
        await parts.accept(*range(1_000, 1_150), sender=Sender(MALLORY, "m"), deliver_at=due)
        for _ in range(5)
    ]
    witness = await parts.accept(7, sender=Sender(WITNESS, "w"), deliver_at=due + 1)
    posts = [(one, range(1_000, 1_150)) for one in wave]
    await submitted(relay, *posts, (witness, [7]))
    assert await parts.redis.lean.execute("ZCARD", parts.redis.keys.delayed_bulk_queue) == 5
    parts.now = due + 2
    await parts.queue.move_due()
    reader = await parts.queue.open_reader("r")
    assert names(await reader.take(100, 0)) == [witness.message_id]
    await reader.close()


async def test_a_scheduled_message_beyond_the_share_can_be_cancelled(parts: Parts) -> None:
    due = parts.now + 1_000
    [one] = [await parts.accept(*range(1_000, 1_150), deliver_at=due)]
    await submitted(relay_of(parts), (one, range(1_000, 1_150)))
    assert await parts.queue.unschedule(one.message_id, due) == 1
    assert await parts.redis.lean.execute("ZCARD", parts.redis.keys.delayed_bulk_queue) == 0
