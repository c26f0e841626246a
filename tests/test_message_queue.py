"""队列：入队原子、至少一次、优先而不饿死、满了拒绝、毒条目进死信。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from meeting_push.errors import QueueFullError
from meeting_push.model import QueueEntry
from meeting_push.redis.address import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.lean import LeanConnection
from meeting_push.services.message_queue import MessageQueue, Taken
from meeting_push.services.redis_service import RedisService
from tests.support.redis_server import RedisServer

Take = Callable[..., Awaitable[list[Taken]]]


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
async def redis(redis_server: RedisServer, key_prefix: str) -> AsyncIterator[RedisService]:
    service = RedisService(RedisAddress.parse(redis_server.url), Keys(key_prefix))
    await service.start()
    yield service
    await service.close()


@pytest.fixture
async def connection(redis: RedisService) -> AsyncIterator[LeanConnection]:
    lean = await redis.open_lean("test")
    yield lean
    await lean.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def queue(redis: RedisService, clock: Clock) -> MessageQueue:
    one = MessageQueue(redis, max_length=5, starvation_bound=3, claim_idle_ms=0, clock=clock)
    await one.create_groups()
    return one


def entry(name: str, priority: int = 0) -> QueueEntry:
    return QueueEntry(
        message_id=name.rjust(26, "0"), recipient_ids=(1, 2), priority=priority, expires_at=1
    )


def names(taken: list[Taken]) -> list[str]:
    return [item.entry.message_id.lstrip("0") for item in taken]


async def test_what_is_enqueued_is_taken_in_order(
    queue: MessageQueue, connection: LeanConnection
) -> None:
    await queue.batch_enqueue([entry("A"), entry("B")])
    await queue.enqueue_message(entry("C"))
    assert names(await queue.batch_dequeue("x", connection, 10, 0)) == ["A", "B", "C"]


async def test_urgent_entries_are_taken_first(
    queue: MessageQueue, connection: LeanConnection
) -> None:
    await queue.batch_enqueue([entry("A"), entry("B", 9)])
    await queue.enqueue_message(entry("C"), priority=5)
    assert names(await queue.batch_dequeue("x", connection, 10, 0)) == ["B", "C", "A"]


async def test_the_normal_queue_does_not_starve(
    queue: MessageQueue, connection: LeanConnection
) -> None:
    await queue.batch_enqueue([entry("N"), *(entry(f"U{i}", 9) for i in range(4))])
    taken = [
        name for _ in range(3) for name in names(await queue.batch_dequeue("x", connection, 1, 0))
    ]
    assert taken == ["U0", "U1", "N"]


async def test_a_full_queue_refuses_the_whole_batch_and_trims_nothing(
    queue: MessageQueue, connection: LeanConnection
) -> None:
    await queue.batch_enqueue([entry(str(i)) for i in range(1, 5)])
    with pytest.raises(QueueFullError):
        await queue.batch_enqueue([entry("5"), entry("6")])
    assert names(await queue.batch_dequeue("x", connection, 10, 0)) == ["1", "2", "3", "4"]


async def test_ensure_room_refuses_at_the_limit(queue: MessageQueue) -> None:
    await queue.batch_enqueue([entry(str(i)) for i in range(5)])
    with pytest.raises(QueueFullError):
        await queue.ensure_room()


async def test_dlv_1_an_unacknowledged_entry_is_claimed_by_another(
    queue: MessageQueue, connection: LeanConnection
) -> None:
    await queue.enqueue_message(entry("A"))
    await queue.batch_dequeue("dead", connection, 10, 0)
    assert names(await queue.claim("alive", connection, 10)) == ["A"]


async def test_an_acknowledged_entry_is_gone(
    queue: MessageQueue, connection: LeanConnection
) -> None:
    await queue.enqueue_message(entry("A"))
    await queue.acknowledge(await queue.batch_dequeue("x", connection, 10, 0))
    assert await queue.claim("y", connection, 10) == []
    assert all(one.length == 0 and one.pending == 0 for one in await queue.lengths())


async def test_a_rejected_entry_is_in_the_dead_letters_with_its_reason(
    queue: MessageQueue, connection: LeanConnection, redis: RedisService
) -> None:
    await queue.enqueue_message(entry("A"))
    [taken] = await queue.batch_dequeue("x", connection, 10, 0)
    await queue.reject(taken, "no such body")
    [(_, fields)] = await redis.lean.execute("XRANGE", redis.keys.dead_letter_queue, "-", "+")
    assert fields[fields.index(b"reason") + 1] == b"no such body"
    assert await queue.claim("y", connection, 10) == []


@pytest.mark.parametrize(
    "fields",
    [
        ("v", "2", "entry", "{}"),
        ("v", "1", "entry", "{"),
        ("v", "1", "entry", '{"message_id": 5}'),
        ("v", "1"),
        ("x", "y"),
        ("v", "1", "entry", b"\xff"),
    ],
    ids=["version", "json", "types", "missing", "foreign", "utf-8"],
)
async def test_a_malformed_entry_goes_to_the_dead_letters_and_does_not_block(
    queue: MessageQueue,
    connection: LeanConnection,
    redis: RedisService,
    fields: tuple[str | bytes, ...],
) -> None:
    await redis.lean.execute("XADD", redis.keys.delivery_queue, "*", *fields)
    await queue.enqueue_message(entry("A"))
    assert names(await queue.batch_dequeue("x", connection, 10, 0)) == ["A"]
    assert await redis.lean.execute("XLEN", redis.keys.dead_letter_queue) == 1


async def test_a_scheduled_entry_moves_when_it_is_due(
    queue: MessageQueue, connection: LeanConnection, clock: Clock
) -> None:
    await queue.schedule([(entry("A", 9), clock.now + 1_000), (entry("B"), clock.now + 5_000)])
    assert await queue.move_due() == 0
    clock.now += 1_000
    assert await queue.move_due() == 1
    assert names(await queue.batch_dequeue("x", connection, 10, 0)) == ["A"]


async def test_a_missing_consumer_group_is_made_again(
    queue: MessageQueue, connection: LeanConnection, redis: RedisService
) -> None:
    await redis.delete(redis.keys.delivery_queue, redis.keys.priority_queue)
    assert await queue.batch_dequeue("x", connection, 10, 0) == []
    await queue.enqueue_message(entry("A"))
    assert names(await queue.batch_dequeue("x", connection, 10, 0)) == ["A"]


async def test_dequeue_waits_for_an_entry(queue: MessageQueue, connection: LeanConnection) -> None:
    waiting = asyncio.create_task(queue.dequeue_message("x", connection, timeout=10))
    await asyncio.sleep(0)
    await queue.enqueue_message(entry("A"))
    taken = await waiting
    assert taken is not None
    assert names([taken]) == ["A"]
