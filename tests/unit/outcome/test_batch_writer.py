"""攒着、成批写：几道同时写，一行不丢。"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from meeting_push.errors import UnavailableError
from meeting_push.logs import RepeatedWarning
from meeting_push.outcome.batch_writer import BatchWriter
from meeting_push.supervision import Aside
from tests.support.eventually import eventually


class SlowStore:
    """``gate`` 开着才写得成。"""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.writing: list[list[int]] = []
        self.written: list[int] = []

    async def write(self, rows: Sequence[int]) -> None:
        self.writing.append(list(rows))
        try:
            await self.gate.wait()
            self.written += rows
        finally:
            self.writing.remove(list(rows))


def writer_of(store: SlowStore, lanes: int = 2, pace_s: float = 0) -> BatchWriter[int]:
    return BatchWriter(
        store.write,
        deferred=RepeatedWarning("ack_flush_deferred"),
        batch_rows=4,
        aside=Aside("loop"),
        lanes=lanes,
        pace_s=pace_s,
    )


async def test_the_next_batch_does_not_wait_for_the_one_before() -> None:
    store = SlowStore()
    writer = writer_of(store)
    writer.add(range(12))
    loop = asyncio.create_task(writer.run())
    await eventually(lambda: len(store.writing) == 2)
    assert store.writing == [[0, 1, 2, 3], [4, 5, 6, 7]]
    store.gate.set()
    await writer.drain(10)
    loop.cancel()
    assert sorted(store.written) == list(range(12))


async def test_what_is_being_written_still_counts_as_waiting() -> None:
    store = SlowStore()
    writer = writer_of(store)
    writer.add(range(8))
    loop = asyncio.create_task(writer.run())
    await eventually(lambda: len(store.writing) == 2)
    assert len(writer) == 8
    drained = asyncio.create_task(writer.drain(10))
    await asyncio.sleep(0)
    assert not drained.done()
    store.gate.set()
    await drained
    assert len(writer) == 0
    loop.cancel()


@pytest.mark.parametrize("lanes", [1, 2])
async def test_a_loop_that_is_stopped_in_the_middle_loses_no_row(lanes: int) -> None:
    store = SlowStore()
    writer = writer_of(store, lanes)
    writer.add(range(12))
    loop = asyncio.create_task(writer.run())
    await eventually(lambda: len(store.writing) == lanes)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert len(writer) == 12
    store.gate.set()
    again = asyncio.create_task(writer.run())
    await writer.drain(10)
    again.cancel()
    assert sorted(store.written) == list(range(12))


async def test_a_batch_the_store_is_away_for_is_written_when_it_is_back() -> None:
    away = [UnavailableError("away"), UnavailableError("away")]
    written: list[int] = []

    async def write(rows: Sequence[int]) -> None:
        if away:
            raise away.pop()
        written.extend(rows)

    writer = BatchWriter(
        write,
        deferred=RepeatedWarning("ack_flush_deferred"),
        batch_rows=4,
        aside=Aside("loop"),
        lanes=2,
    )
    writer.add(range(12))
    loop = asyncio.create_task(writer.run())
    await writer.drain(10)
    loop.cancel()
    assert sorted(written) == list(range(12))


async def test_while_a_batch_is_being_written_a_few_more_become_the_next_one() -> None:
    store = SlowStore()
    writer = writer_of(store)
    writer.add([0])
    loop = asyncio.create_task(writer.run())
    await eventually(lambda: len(store.writing) == 1)
    writer.add([1])
    writer.add([2])
    for _ in range(20):  # 另一道若要来，早来了
        await asyncio.sleep(0)
    assert store.writing == [[0]]
    store.gate.set()
    await writer.drain(10)
    loop.cancel()
    assert store.written == [0, 1, 2]


async def test_a_crowd_that_comes_during_a_batch_is_written_beside_it() -> None:
    store = SlowStore()
    writer = writer_of(store)
    writer.add([0])
    loop = asyncio.create_task(writer.run())
    await eventually(lambda: len(store.writing) == 1)
    writer.add(range(1, 5))
    await eventually(lambda: len(store.writing) == 2)
    assert store.writing == [[0], [1, 2, 3, 4]]
    store.gate.set()
    await writer.drain(10)
    loop.cancel()


async def test_only_the_first_batch_after_a_rest_is_written_at_once() -> None:
    store = SlowStore()
    store.gate.set()
    writer = writer_of(store, pace_s=3_600)
    loop = asyncio.create_task(writer.run())
    writer.add([0])
    await writer.drain(10)
    assert store.written == [0]
    writer.add([1])
    for _ in range(20):  # 若要写，早写了
        await asyncio.sleep(0)
    assert (store.written, len(writer)) == ([0], 1)
    writer.add([2, 3, 4])  # 够一批了：不等
    await writer.drain(10)
    assert store.written == [0, 1, 2, 3, 4]
    loop.cancel()


async def test_a_full_batch_does_not_keep_its_distance_from_the_one_before() -> None:
    store = SlowStore()
    store.gate.set()
    writer = writer_of(store, lanes=1, pace_s=3_600)
    loop = asyncio.create_task(writer.run())
    for start in (0, 4, 8):
        writer.add(range(start, start + 4))
        await writer.drain(10)
    assert store.written == list(range(12))
    loop.cancel()
