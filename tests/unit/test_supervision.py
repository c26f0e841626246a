"""B1 的机制：对半分开、搁置坏的一项、依赖不在就退避。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meeting_push.errors import RedisCommandError, RedisUnavailableError, UnavailableError
from meeting_push.logs import RepeatedWarning
from meeting_push.outcome.batch_writer import BatchWriter
from meeting_push.supervision import (
    BROKEN_AFTER,
    Aside,
    Backoff,
    SupervisedLoop,
    Supervisor,
    periodically,
    woken,
)
from tests.support.eventually import eventually


class Store:
    """记下写成的；``bad`` 里的一碰就错，整批都不写。"""

    def __init__(self, bad: set[int], error: Exception | None = None) -> None:
        self.bad = bad
        self.error = error or RedisCommandError("WRONGTYPE")
        self.written: set[int] = set()
        self.calls = 0

    async def write(self, items: Sequence[int]) -> None:
        self.calls += 1
        if self.bad & set(items):
            raise self.error
        self.written.update(items)


@given(st.integers(0, 60), st.sets(st.integers(0, 59)))
def test_b1_exactly_the_spoiled_items_are_set_aside(count: int, bad: set[int]) -> None:
    items, aside = list(range(count)), Aside("loop")
    store = Store(bad)
    spoiled = asyncio.run(aside.isolate(items, store.write))
    assert spoiled == sorted(bad & set(items))
    assert store.written == set(items) - bad
    assert aside.count == len(spoiled)


async def test_b1_one_spoiled_item_costs_few_calls() -> None:
    store = Store({777})
    await Aside("loop").isolate(range(1_024), store.write)
    assert store.calls <= 2 * 10 + 1


async def test_b1_a_dependency_that_is_away_sets_nothing_aside() -> None:
    aside = Aside("loop")
    with pytest.raises(RedisUnavailableError):
        await aside.isolate(range(8), Store({3}, RedisUnavailableError("away")).write)
    assert aside.count == 0


async def test_b1_a_loop_that_only_sets_aside_is_not_well() -> None:
    aside, store = Aside("loop"), Store(set(range(BROKEN_AFTER)))
    await aside.isolate(range(BROKEN_AFTER), store.write)
    with pytest.raises(UnavailableError, match="loop"):
        await aside.check()
    await aside.isolate([BROKEN_AFTER], store.write)
    await aside.check()


async def test_b1_a_row_that_always_times_out_does_not_block_the_others() -> None:
    """一行被别人锁着：等它的是它自己，不是大家。"""
    store = Store({0}, UnavailableError("locked"))
    deferred = RepeatedWarning("deferred")
    writer = BatchWriter[int](store.write, deferred=deferred, batch_rows=64, aside=Aside("loop"))
    writer.add(range(64))
    loop = asyncio.create_task(writer.run())
    await eventually(lambda: store.written == set(range(1, 64)), timeout=20)
    store.bad.clear()
    await writer.drain(10)
    loop.cancel()
    assert store.written == set(range(64))


async def test_a_temporary_error_is_waited_out_and_another_ends_the_loop() -> None:
    errors: list[Exception] = [UnavailableError("away"), UnavailableError("away")]
    steps = 0

    async def step() -> None:
        nonlocal steps
        if errors:
            raise errors.pop()
        steps += 1
        if steps == 2:
            raise RedisCommandError("WRONGTYPE")

    with pytest.raises(RedisCommandError):
        await periodically(step, lambda: asyncio.sleep(0), RepeatedWarning("deferred"))
    assert not errors


async def test_a_loop_that_can_not_go_on_says_so() -> None:
    async def step() -> None:
        raise RedisCommandError("WRONGTYPE")

    loop = SupervisedLoop(
        "x", lambda: periodically(step, lambda: asyncio.sleep(0), RepeatedWarning("deferred"))
    )
    loop.start()
    await eventually(lambda: loop.state.failing)
    await loop.stop()


async def test_the_backoff_is_capped_and_starts_again() -> None:
    backoff = Backoff(0.001, 0.002)
    for _ in range(5):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(backoff.wait(), 0.5)
    assert backoff._next_s == 0.002
    backoff.reset()
    assert backoff._next_s == 0.001


async def test_restarts_are_remembered_after_a_loop_is_gone() -> None:
    supervisor, died = Supervisor(), asyncio.Event()

    async def body() -> None:
        if not died.is_set():
            died.set()
            raise RuntimeError("once")
        await asyncio.Event().wait()

    loop = supervisor.start("one", body)
    await eventually(lambda: supervisor.restarts() == {"one": 1})
    await supervisor.remove(loop)
    assert supervisor.restarts() == {"one": 1}
    await supervisor.stop()


@pytest.mark.parametrize("ticks", range(4))
async def test_a_loop_woken_as_it_is_stopped_stops(ticks: int) -> None:
    wake = asyncio.Event()
    loop = SupervisedLoop("one", lambda: periodically(wake.clear, lambda: woken(wake, 60)))
    loop.start()
    for _ in range(5):
        await asyncio.sleep(0)
    wake.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    await asyncio.wait_for(loop.stop(), 2)


async def test_a_loop_that_hangs_can_be_started_again() -> None:
    lives = 0

    async def body() -> None:
        nonlocal lives
        lives += 1
        await asyncio.Event().wait()

    loop = SupervisedLoop("one", body)
    loop.start()
    await eventually(lambda: lives == 1)
    assert await loop.restart(5)
    await eventually(lambda: lives == 2)
    assert (loop.state.running, loop.state.restarts) == (True, 1)
    await loop.stop()


async def test_a_loop_that_does_not_even_take_a_cancel_is_left_as_it_is() -> None:
    over, begun = asyncio.Event(), asyncio.Event()

    async def body() -> None:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await over.wait()

    loop = SupervisedLoop("one", body)
    loop.start()
    await begun.wait()
    assert not await loop.restart(0.05)
    assert loop.state.restarts == 0
    over.set()
    await loop.stop()
