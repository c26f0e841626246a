from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.eventually import eventually, wait_until


async def test_it_returns_the_first_true_answer() -> None:
    answers = iter([0, 0, 7])
    assert await eventually(lambda: next(answers)) == 7


async def test_it_awaits_an_asynchronous_predicate() -> None:
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, event.set)

    async def is_set() -> bool:
        return event.is_set()

    assert await eventually(is_set)


async def test_it_gives_up_at_the_deadline_and_says_what_it_saw() -> None:
    with pytest.raises(AssertionError, match="last result: 0"):
        await eventually(lambda: 0, timeout=0.03)


async def test_the_time_it_was_stopped_is_not_waiting() -> None:
    """醒来之后才成的，等得到：停着的那一段只算一次。"""
    asked = 0

    def stopped_once() -> bool:
        nonlocal asked
        asked += 1
        if asked == 1:
            asyncio.get_running_loop().call_soon(time.sleep, 0.7)
        return asked == 3

    assert await eventually(stopped_once, timeout=0.6)


def test_who_is_slow_to_answer_is_asked_again() -> None:
    answers = iter([0, 7])

    def slow() -> int:
        time.sleep(0.7)
        return next(answers)

    assert wait_until(slow, timeout=0.6) == 7
