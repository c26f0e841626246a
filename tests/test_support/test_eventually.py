from __future__ import annotations

import asyncio

import pytest

from tests.support.eventually import eventually


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
