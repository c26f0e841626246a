"""E9、B5：接受从不等 Redis；队列满不满按最近知道的，不知道就接受。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from meeting_push.errors import QueueFullError, RedisUnavailableError
from meeting_push.queue.room import FRESH_S, QueueRoom
from tests.support.eventually import eventually


class Queue:
    def __init__(self) -> None:
        self.length = 0
        self.away = False
        self.looks = 0

    async def look(self) -> dict[str, int]:
        self.looks += 1
        if self.away:
            raise RedisUnavailableError("gone")
        return {"q": self.length}


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
async def room(queue: Queue) -> AsyncIterator[QueueRoom]:
    room = QueueRoom(queue.look, 10)
    watching = asyncio.create_task(room.run())
    yield room
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


def test_what_is_not_known_is_accepted(queue: Queue) -> None:
    """E9"""
    QueueRoom(queue.look, 0).check()


async def test_a_full_queue_is_noticed(queue: Queue, room: QueueRoom) -> None:
    queue.length = 10
    await eventually(lambda: queue.looks >= 2)
    with pytest.raises(QueueFullError):
        room.check()


async def test_a_queue_that_can_not_be_asked_is_not_known_to_be_full(
    queue: Queue, room: QueueRoom
) -> None:
    """B5"""
    queue.length = 10
    await eventually(lambda: queue.looks >= 2)
    queue.away = True
    looks = queue.looks
    await eventually(lambda: queue.looks > looks + 1)
    room.check()


def test_what_is_a_second_old_is_not_known(queue: Queue) -> None:
    """E9"""
    now = [0.0]
    room = QueueRoom(queue.look, 10, lambda: now[0])
    room.learn({"q": -1})
    with pytest.raises(QueueFullError):
        room.check()
    now[0] = FRESH_S + 0.1
    room.check()


def test_while_paused_nothing_is_accepted_and_a_pause_ends_by_itself(queue: Queue) -> None:
    now = 0.0
    room = QueueRoom(queue.look, 10, clock=lambda: now)
    room.pause(30)
    with pytest.raises(QueueFullError) as refused:
        room.check()
    assert refused.value.retry_after_s == 5
    now = 30.0
    room.check()
    room.pause(30)
    room.pause(0)
    room.check()
