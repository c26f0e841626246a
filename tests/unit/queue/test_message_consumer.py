"""消费者与它的池：一项的意外不连累别项、毒条目带着回溯进死信、停得干净、随积压增减。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from meeting_push.deliver.offline_message_queue import Delivered, Delivery, OfflineMessageQueue
from meeting_push.errors import RedisUnavailableError, UnavailableError
from meeting_push.model import QueueEntry
from meeting_push.queue import consumer_pool
from meeting_push.queue.consumer_pool import ConsumerPool
from meeting_push.queue.message_consumer import MessageConsumer
from meeting_push.queue.message_queue import MessageQueue
from meeting_push.redis.keys import QueueKeys
from meeting_push.redis.redis_service import RedisService
from meeting_push.settings import Settings
from meeting_push.supervision import Supervisor
from tests.support.eventually import eventually
from tests.support.queueing import message_consumer, message_queue

FAR = 4_000_000_000_000


class NoBodies:
    async def tails(self, message_ids: Sequence[str]) -> dict[str, bytes]:
        return {}


class TouchyMailbox(OfflineMessageQueue):
    """真的信箱，可以让某些投递失败或停住。"""

    bad: frozenset[str] = frozenset()
    error: Exception = RuntimeError("surprise")
    gate: asyncio.Event | None = None

    async def deliver(
        self, deliveries: Sequence[Delivery], *, publish: bool = True
    ) -> list[list[Delivered]]:
        if self.gate is not None:
            await self.gate.wait()
        if any(one.message_id in self.bad for one in deliveries):
            raise self.error
        return await super().deliver(deliveries, publish=publish)


@pytest.fixture
def queue(redis: RedisService) -> MessageQueue:
    return message_queue(redis, max_length=1_000, claim_idle_ms=0, max_deliveries=2)


@pytest.fixture
def mailbox(redis: RedisService) -> TouchyMailbox:
    return TouchyMailbox(redis, NoBodies(), Settings().messages)


Make = Callable[..., MessageConsumer]


@pytest.fixture
def make(queue: MessageQueue, mailbox: TouchyMailbox) -> Make:
    def build(index: int, block_ms: int = 20) -> MessageConsumer:
        return message_consumer(
            f"c{index}", queue, mailbox, batch_entries=10, block_ms=block_ms, claim_every_ms=20
        )

    return build


def message_id(name: str) -> str:
    return name.rjust(26, "0")


@pytest.fixture
def enqueue(queue: MessageQueue, mailbox: TouchyMailbox) -> Callable[..., Any]:
    async def put(*names: str) -> None:
        bodies = [(message_id(n), b'"message_id":"%b"}' % n.encode(), 0, FAR) for n in names]
        await mailbox.store_bodies(bodies)
        await queue.batch_enqueue(
            QueueEntry(message_id=message_id(n), recipient_ids=(1,), priority=0, expires_at=FAR)
            for n in names
        )

    return put


@contextlib.asynccontextmanager
async def running(consumer: MessageConsumer) -> AsyncIterator[None]:
    task = asyncio.create_task(consumer.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def delivered(mailbox: TouchyMailbox, count: int) -> None:
    async def there() -> bool:
        return await mailbox.get_offline_message_count(1) == count

    await eventually(there)


async def emptied(queue: MessageQueue) -> None:
    async def empty() -> bool:
        return await queue.streams.backlog() == 0

    await eventually(empty)


async def test_the_bad_entry_does_not_take_the_batch_down(
    queue: MessageQueue, mailbox: TouchyMailbox, make: Make, enqueue: Callable[..., Any]
) -> None:
    mailbox.bad = frozenset({message_id("B")})
    await enqueue("A", "B", "C")
    async with running(make(0)):
        await delivered(mailbox, 2)


async def test_poison_ends_in_the_dead_letters_with_its_trace(
    queue: MessageQueue,
    mailbox: TouchyMailbox,
    make: Make,
    enqueue: Callable[..., Any],
    redis: RedisService,
) -> None:
    mailbox.bad = frozenset({message_id("B")})
    await enqueue("A", "B")
    async with running(make(0)):
        await emptied(queue)
    [(_, flat)] = await redis.lean.execute(
        "XRANGE", QueueKeys.of(redis.keys, 1)[0].dead_letter, "-", "+"
    )
    letter = dict(zip(flat[::2], flat[1::2], strict=True))
    assert letter[b"reason"] == b"delivered_too_often"
    assert b"RuntimeError: surprise" in letter[b"error"]
    assert await mailbox.get_offline_message_count(1) == 1


async def test_con_4_a_dependency_that_is_away_makes_no_poison(
    queue: MessageQueue, mailbox: TouchyMailbox, make: Make, enqueue: Callable[..., Any]
) -> None:
    mailbox.bad = frozenset({message_id("A")})
    mailbox.error = RedisUnavailableError("away")
    await enqueue("A")
    consumer = make(0)
    async with running(consumer):
        await eventually(lambda: consumer.statistics.failures >= 4)
        mailbox.bad = frozenset()
        await delivered(mailbox, 1)


async def test_a_stopped_consumer_finishes_what_is_in_hand_and_leaves_the_group(
    queue: MessageQueue, mailbox: TouchyMailbox, make: Make, enqueue: Callable[..., Any]
) -> None:
    mailbox.gate = asyncio.Event()
    await enqueue("A")
    consumer = make(0)
    task = asyncio.create_task(consumer.run())
    await eventually(lambda: consumer.statistics.in_hand)
    task.cancel()
    await asyncio.sleep(0)
    mailbox.gate.set()
    await asyncio.gather(task, return_exceptions=True)
    assert await queue.streams.backlog() == 0
    assert await queue.streams.members() == []


async def test_stopping_does_not_wait_for_the_blocking_read(
    redis: RedisService, make: Make
) -> None:
    async def blocked() -> bool:
        clients = b"".join(await redis.lean.everywhere("CLIENT", "LIST"))
        return any(b"consumer-c0" in row and b"flags=b" in row for row in clients.splitlines())

    async with asyncio.timeout(3), running(make(0, 10_000)):
        await eventually(blocked, timeout=2)


async def test_two_consumers_of_one_name_deliver_everything_once(
    queue: MessageQueue, mailbox: TouchyMailbox, make: Make, enqueue: Callable[..., Any]
) -> None:
    await enqueue(*(f"{i:03}" for i in range(100)))
    async with running(make(0)), running(make(0)):
        await emptied(queue)
    assert await mailbox.get_offline_message_count(1) == 100


async def test_the_pool_grows_with_the_backlog_and_shrinks_when_calm(
    queue: MessageQueue,
    mailbox: TouchyMailbox,
    make: Make,
    enqueue: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consumer_pool, "ADJUST_EVERY_S", 3600)
    monkeypatch.setattr(consumer_pool, "SHRINK_AFTER", 1)
    mailbox.gate = asyncio.Event()
    await enqueue(*(f"{i:03}" for i in range(100)))
    pool, supervisor = ConsumerPool(make, queue, least=1, most=3, entries_each=10), Supervisor()
    pool.start(supervisor)
    try:
        for _ in range(5):
            await pool.adjust(supervisor)
        assert pool.size == 3
        mailbox.gate.set()
        await emptied(queue)
        for _ in range(5):
            await pool.adjust(supervisor)
        assert pool.size == 1
        assert len(pool.statistics()) == 3
    finally:
        await supervisor.stop()


async def test_a_consumer_without_progress_makes_the_pool_unhealthy(
    queue: MessageQueue, make: Make
) -> None:
    pool = ConsumerPool(make, queue, least=1, most=1, entries_each=10, stuck_after_s=-1)
    supervisor = Supervisor()
    pool.start(supervisor)
    try:
        with pytest.raises(UnavailableError):
            await pool.check()
    finally:
        await supervisor.stop()


async def test_nothing_is_delivered_to_who_is_erased(
    queue: MessageQueue, mailbox: TouchyMailbox, enqueue: Callable[..., Any], redis: RedisService
) -> None:
    """队列里的一项早于抹掉：他的键不会又长出来，别的收件人照收。"""
    consumer = message_consumer(
        "c", queue, mailbox, gone={2}, batch_entries=10, block_ms=20, claim_every_ms=20
    )
    await enqueue("A")
    await queue.batch_enqueue(
        QueueEntry(message_id=message_id("A"), recipient_ids=to, priority=0, expires_at=FAR)
        for to in ((1, 2), (2,))
    )
    async with running(consumer):
        await emptied(queue)
    assert await mailbox.get_offline_message_count(1) == 1
    assert await redis.lean.execute("EXISTS", redis.keys.user_seq(2)) == 0
