"""等投递赶上的请求（决定 0014）在门口不占着别人的位子。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi import Request

from meeting_push.router import turns as turns_module
from meeting_push.router.turns import TURN, LargeTurns, Turn, Turns, pause_of
from tests.support.clocks import Monotonic


def request_from(address: str) -> Request:
    return Request({"type": "http", "headers": [], "client": (address, 1)})


@pytest.fixture
def turns() -> Turns:
    clock = Monotonic(0.0)
    return Turns(at_once=1, clock=clock, large=LargeTurns(clock))


@pytest.fixture
async def waiting(turns: Turns) -> AsyncIterator[Turn]:
    """领到了唯一的位子的。"""
    turn = Turn(turns, request_from("127.0.0.1"))
    await turn.take()
    yield turn
    turn.end()


@pytest.fixture
def other(turns: Turns) -> Turn:
    return Turn(turns, request_from("127.0.0.2"))


async def test_who_waits_aside_leaves_his_place_to_others(waiting: Turn, other: Turn) -> None:
    async with waiting.aside():
        assert await asyncio.wait_for(other.take(), 10) is False
        other.end()


async def test_and_takes_a_place_again_before_he_goes_on(waiting: Turn, other: Turn) -> None:
    async def wait_aside() -> None:
        async with waiting.aside():
            await other.take()

    going_on = asyncio.create_task(wait_aside())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not going_on.done()
    other.end()
    await going_on


async def test_who_had_yielded_it_goes_on_without(
    turns: Turns, other: Turn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns_module, "YIELD_S", 0)
    slow = Turn(turns, request_from("127.0.0.1"))
    await slow.take()
    monkeypatch.undo()
    await other.take()  # 他让出来的
    async with slow.aside():
        pass
    slow.end()
    other.end()


async def test_who_left_while_aside_has_no_place(waiting: Turn, other: Turn) -> None:
    async def wait_aside() -> None:
        async with waiting.aside():
            await asyncio.Event().wait()

    gone = asyncio.create_task(wait_aside())
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert await asyncio.wait_for(other.take(), 10) is False
    other.end()


async def test_the_large_of_which_one_is_done_at_a_time_do_not_wait(other: Turn) -> None:
    """后面的都等着它，它办了多久后面的就歇几十倍。"""
    request = request_from("127.0.0.2")
    request.scope[TURN] = other
    await other.take(large_of="flood")
    assert pause_of(request) is None
    other.end()
