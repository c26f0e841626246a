"""没有谁送了的接收者：等它回来，到时成为死信，不占着磁盘。"""

from __future__ import annotations

import pytest

from meeting_push.events.receiver import DEAD_KEPT_MS, StrayKeeper
from meeting_push.events.sender import GIVE_UP_MS, LEASE_MS
from meeting_push.storage.database import Database
from meeting_push.storage.event_outbox import ACCEPTED
from meeting_push.storage.event_queue import EventQueueRepository

NOW = 1_800_000_000_000
KEY = "url:k"


class World:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.queue = EventQueueRepository(database)
        self.now = NOW
        database.events.subscribe(KEY, [ACCEPTED], lambda: None)
        self.keeper = StrayKeeper(
            self.queue, most_waiting=10**6, give_up_ms=GIVE_UP_MS, clock=lambda: self.now
        )

    async def happen(self) -> None:
        async with self.database.transaction() as connection:
            await self.database.events.add(connection, ACCEPTED, [("M1", 1, self.now)], self.now)

    async def left(self) -> tuple[int, int]:
        waiting = await self.queue.waiting(KEY)
        return waiting.events, waiting.dead


@pytest.fixture
async def world(database: Database) -> World:
    world = World(database)
    await world.happen()
    return world


async def test_what_nobody_sends_waits_a_day_and_then_is_a_dead_letter(world: World) -> None:
    world.now += GIVE_UP_MS - 1
    await world.keeper.sweep()
    assert await world.left() == (1, 0)
    world.now += 2
    await world.keeper.sweep()
    assert await world.left() == (0, 1)
    assert (await world.queue.dead(KEY, 1))[0].why == "gave up waiting"


async def test_its_dead_letters_are_forgotten_as_everybodys(world: World) -> None:
    world.now += GIVE_UP_MS + 1
    await world.keeper.sweep()
    world.now += DEAD_KEPT_MS + 1
    await world.keeper.sweep()
    assert await world.left() == (0, 0)
    assert await world.queue.unclaimed(world.now) == []


async def test_who_is_sent_to_is_left_alone_however_long_it_waits(world: World) -> None:
    world.now += 10 * GIVE_UP_MS
    await world.queue.lease(KEY, "node", world.now, LEASE_MS)
    await world.keeper.sweep()
    assert await world.left() == (1, 0)


async def test_who_was_sent_to_a_moment_ago_is_left_alone(world: World) -> None:
    """滚动重启：放下了租约，下一个还没有接手。"""
    world.now += 10 * GIVE_UP_MS
    await world.queue.lease(KEY, "node", world.now, LEASE_MS)
    await world.queue.release(KEY, "node", world.now)
    await world.keeper.sweep()
    assert await world.left() == (1, 0)
    assert await world.queue.lease(KEY, "other", world.now, LEASE_MS) is not None


async def test_a_receiver_that_comes_back_in_time_finds_what_waited(world: World) -> None:
    world.now += GIVE_UP_MS // 2
    await world.keeper.sweep()
    assert await world.queue.lease(KEY, "node", world.now, LEASE_MS) is not None
    assert len(await world.queue.due(KEY, world.now, 10)) == 1
