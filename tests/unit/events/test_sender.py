"""一个接收者的队列：至少一次，同一条消息的照次序，坏了的怎样。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import pytest

from meeting_push.errors import DatabaseUnavailableError
from meeting_push.events.delivery import Answer, Verdict
from meeting_push.events.sender import LEASE_MS, EventSender
from meeting_push.events.units import Unit
from meeting_push.node_identity import NodeIdentity
from meeting_push.storage.database import Database
from meeting_push.storage.event_outbox import ACCEPTED, READ
from meeting_push.storage.event_queue import EventQueueRepository

NOW = 1_800_000_000_000
DAY = 24 * 3_600_000
KEY = "url:k"


@dataclass
class Receiver:
    """``Delivery``：记下送来的，照 ``answer`` 回答。"""

    answer: Callable[[Unit], Answer] = lambda _: Answer(Verdict.DONE)
    took: list[tuple[str, str]] = field(default_factory=list)
    seen: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def deliver(self, unit: Unit) -> Answer:
        self.seen += 1
        answer = self.answer(unit)
        if answer.verdict is Verdict.DONE:
            self.took += [(unit.row.kind, item[0]) for item in unit.items]
            self.arrived.set()
        return answer

    async def close(self) -> None:
        pass


class World:
    """``now`` 与 ``tick`` 是拨得动的钟（毫秒，秒）。"""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.queue = EventQueueRepository(database)
        self.now, self.tick = NOW, 0.0
        database.events.subscribe(KEY, [ACCEPTED, READ], lambda: None)

    def sender(self, receiver: Receiver, most_waiting: int = 10**6) -> EventSender:
        return EventSender(
            KEY,
            "k",
            receiver,
            queue=self.queue,
            node=NodeIdentity(),
            most_waiting=most_waiting,
            clock=lambda: self.now,
            monotonic=lambda: self.tick,
        )

    async def happen(self, kind: str, *messages: str) -> None:
        """一次提交。"""
        async with self.database.transaction() as connection:
            items = [(message, 1, self.now) for message in messages]
            await self.database.events.add(connection, kind, items, self.now)

    def later(self, seconds: float) -> None:
        self.now += int(seconds * 1000)
        self.tick += seconds

    async def left(self) -> tuple[int, int]:
        waiting = await self.queue.waiting(KEY)
        return waiting.events, waiting.dead


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


async def go(sender: EventSender, steps: int = 4) -> None:
    """几步，每一步之后送着的都送完。"""
    for _ in range(steps):
        sender.wake()
        await sender.step()
        await sender._tasks.wait(5)


def failing(status: int = 500, *messages: str) -> Callable[[Unit], Answer]:
    """说到 ``messages`` 的（没有给就是全部）都不成。"""
    verdict = Verdict.REFUSED if 400 <= status < 500 else Verdict.AGAIN

    def answer(unit: Unit) -> Answer:
        bad = not messages or unit.subjects & set(messages)
        return Answer(verdict, f"HTTP {status}") if bad else Answer(Verdict.DONE)

    return answer


async def test_what_happened_arrives_and_is_forgotten(world: World) -> None:
    await world.happen(ACCEPTED, "a", "b")
    await world.happen(READ, "a")
    receiver = Receiver()
    await go(world.sender(receiver))
    assert receiver.took == [(ACCEPTED, "a"), (ACCEPTED, "b"), (READ, "a")]
    assert await world.left() == (0, 0)


async def test_what_failed_holds_its_message_only(world: World) -> None:
    await world.happen(ACCEPTED, "a")
    await world.happen(READ, "a")
    await world.happen(READ, "b")
    receiver = Receiver(failing(500, "a"))
    sender = world.sender(receiver)
    await go(sender)
    assert receiver.took == [(READ, "b")]
    receiver.answer = lambda _: Answer(Verdict.DONE)
    world.later(2)
    await go(sender)
    assert receiver.took == [(READ, "b"), (ACCEPTED, "a"), (READ, "a")]


async def test_pauses_grow(world: World) -> None:
    await world.happen(ACCEPTED, "a")
    receiver = Receiver(failing(500, "a"))
    sender, seen = world.sender(receiver), []
    await go(sender)
    for seconds in (2, 4, 12, 35):
        world.later(0.5)
        await go(sender)
        before = receiver.seen
        world.later(seconds)
        await go(sender)
        seen.append((before, receiver.seen))
    assert seen == [(1, 2), (2, 3), (3, 4), (4, 5)]


async def test_after_five_minutes_it_steps_aside_and_each_event_is_its_own(world: World) -> None:
    await world.happen(ACCEPTED, "a", "bad")
    await world.happen(READ, "a")
    receiver = Receiver(failing(422, "bad"))
    sender = world.sender(receiver)
    minutes = 0
    while not receiver.took and minutes < 15:
        await go(sender)
        world.later(60)
        minutes += 1
    assert minutes > 5
    assert receiver.took[0] == (READ, "a")
    world.later(3_600)
    await go(sender)
    assert (ACCEPTED, "a") in receiver.took
    assert await world.left() == (1, 0)


async def test_a_receiver_that_is_down_keeps_the_order_however_long(world: World) -> None:
    for n in range(20):
        await world.happen(ACCEPTED, f"m{n}")
        await world.happen(READ, f"m{n}")
    receiver = Receiver(failing(503))
    sender = world.sender(receiver)
    for _ in range(20):
        world.later(60)
        await go(sender)
    assert receiver.seen < 60  # 歇着，隔一会儿试一份
    receiver.answer = lambda _: Answer(Verdict.DONE)
    world.later(120)
    await go(sender, 30)
    assert len(receiver.took) == 40
    for n in range(20):
        mine = [kind for kind, message in receiver.took if message == f"m{n}"]
        assert mine == [ACCEPTED, READ]


async def test_after_a_day_it_is_a_dead_letter_and_can_be_sent_again(world: World) -> None:
    await world.happen(ACCEPTED, "a")
    receiver = Receiver(failing(500, "a"))
    sender = world.sender(receiver)
    for _ in range(30):
        await go(sender)
        world.later(3_700)
    await go(sender)
    assert await world.left() == (0, 1)
    assert sender.figures.dead == 1
    assert [row.why for row in await world.queue.dead(KEY, 10)] == ["HTTP 500"]
    assert await world.queue.requeue(KEY, world.now, 100) == 1
    receiver.answer = lambda _: Answer(Verdict.DONE)
    await go(sender)
    assert receiver.took == [(ACCEPTED, "a")]


async def test_a_day_of_an_absent_receiver_is_dead_letters_untried_ones_too(world: World) -> None:
    for n in range(20):
        await world.happen(ACCEPTED, f"m{n}")
    sender = world.sender(Receiver(failing(503)))
    await go(sender)
    world.later(25 * 3_600)
    await go(sender)
    assert await world.left() == (0, 20)


async def test_gone_stops_all_until_somebody_says_go_on(world: World) -> None:
    for n in range(3):
        await world.happen(ACCEPTED, f"m{n}")
    receiver = Receiver(lambda _: Answer(Verdict.GONE, "HTTP 410"))
    sender = world.sender(receiver)
    await go(sender)
    seen = receiver.seen
    world.later(60)
    await go(sender)
    assert (receiver.seen, sender.figures.parked) == (seen, True)
    assert list(await world.queue.parked()) == [KEY]
    receiver.answer = lambda _: Answer(Verdict.DONE)
    await world.queue.park(KEY, None)
    world.later(60)
    await go(sender)
    assert sorted(receiver.took) == [(ACCEPTED, f"m{n}") for n in range(3)]


async def test_who_asks_for_a_pause_gets_it(world: World) -> None:
    await world.happen(ACCEPTED, "a")
    receiver = Receiver(lambda _: Answer(Verdict.AGAIN, "HTTP 429", 120))
    sender = world.sender(receiver)
    await go(sender)
    world.later(100)
    await world.happen(ACCEPTED, "b")
    await go(sender)
    assert receiver.seen == 1
    world.later(30)
    await go(sender, 1)
    assert receiver.seen > 1


async def test_too_many_that_wait_are_dead_letters_the_oldest_first(world: World) -> None:
    for n in range(6):
        await world.happen(ACCEPTED, f"m{n}")
    receiver = Receiver(failing(503))
    sender = world.sender(receiver, most_waiting=4)
    await sender.step()
    assert await world.left() == (4, 2)
    receiver.answer = lambda _: Answer(Verdict.DONE)
    world.later(120)
    await go(sender, 8)
    assert sorted(message for _, message in receiver.took) == ["m2", "m3", "m4", "m5"]


async def test_one_sends_and_another_takes_over_when_it_dies(world: World) -> None:
    first, second = Receiver(), Receiver()
    dying, other = world.sender(first), world.sender(second)
    await world.happen(ACCEPTED, "a")
    await go(dying)
    await world.happen(ACCEPTED, "b")
    await go(other)
    assert second.took == []
    world.later(LEASE_MS / 1000 + 1)
    await go(other)
    assert second.took == [(ACCEPTED, "b")]
    await world.happen(ACCEPTED, "c")
    await go(dying)
    assert first.took == [(ACCEPTED, "a")]
    assert not dying.figures.leads


async def test_who_leaves_lets_the_other_at_once(world: World) -> None:
    leaving, other = world.sender(Receiver()), world.sender(Receiver())
    await go(leaving)
    await leaving.stop()
    await go(other)
    assert other.figures.leads


async def test_killed_between_the_post_and_the_settling_it_comes_again(world: World) -> None:
    await world.happen(ACCEPTED, "a")
    first, second = Receiver(), Receiver()
    killed = world.sender(first)
    await killed.step()
    await killed._tasks.wait(5)
    world.later(LEASE_MS / 1000 + 1)
    await go(world.sender(second))
    assert first.took == second.took == [(ACCEPTED, "a")]


async def test_a_failed_one_keeps_its_place_across_a_takeover(world: World) -> None:
    await world.happen(ACCEPTED, "a")
    await world.happen(READ, "a")
    await go(world.sender(Receiver(failing(500, "a"))))
    receiver = Receiver()
    world.later(LEASE_MS / 1000 + 1)
    await go(world.sender(receiver))
    assert receiver.took == [(ACCEPTED, "a"), (READ, "a")]


async def test_the_database_away_while_it_sends_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.happen(ACCEPTED, "a")
    receiver = Receiver()
    sender = world.sender(receiver)
    await sender.step()
    await sender._tasks.wait(5)
    with away(monkeypatch, world.database), pytest.raises(DatabaseUnavailableError):
        await sender.step()
    await go(sender)
    assert receiver.took == [(ACCEPTED, "a")]
    assert await world.left() == (0, 0)


@contextlib.contextmanager
def away(monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[None]:
    @contextlib.asynccontextmanager
    async def refuse() -> AsyncIterator[None]:
        raise DatabaseUnavailableError("away")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(database, "transaction", refuse)
        patch.setattr(database, "connect", refuse)
        yield


async def test_a_slow_one_delays_no_other_message(world: World) -> None:
    await world.happen(ACCEPTED, "slow")
    await world.happen(ACCEPTED, "a")
    held = asyncio.Event()

    class Slow(Receiver):
        async def deliver(self, unit: Unit) -> Answer:
            if "slow" in unit.subjects:
                await held.wait()
            return await super().deliver(unit)

    receiver = Slow()
    sender = world.sender(receiver)
    await sender.step()
    await receiver.arrived.wait()
    assert receiver.took == [(ACCEPTED, "a")]
    held.set()
    await sender._tasks.wait(5)


async def test_a_spoiled_row_is_a_dead_letter(world: World) -> None:
    async with world.database.transaction() as connection:
        await world.database.events.add(connection, ACCEPTED, [[]], NOW)
    await world.happen(ACCEPTED, "a")
    receiver = Receiver()
    await go(world.sender(receiver))
    assert receiver.took == [(ACCEPTED, "a")]
    assert await world.left() == (0, 1)
