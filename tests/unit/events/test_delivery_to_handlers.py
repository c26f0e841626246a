"""进程内的处理器：同步的、异步的，抛出的、挂住的。"""

from __future__ import annotations

import asyncio
import functools
import threading

import pytest

from meeting_push.events.delivery import MOST_THREADS, HandlerCall, Verdict, registered
from meeting_push.events.units import PushEvent, Unit
from tests.unit.events.test_delivery import ROW


async def test_an_async_one_gets_each_event() -> None:
    seen: list[PushEvent] = []

    async def handler(event: PushEvent) -> None:
        seen.append(event)

    answer = await HandlerCall(handler).deliver(Unit.of(ROW))
    assert answer.verdict is Verdict.DONE
    assert [event.data["message_id"] for event in seen] == ["M1", "M2"]


async def test_a_sync_one_is_called_beside_the_loop() -> None:
    threads: list[str] = []

    def handler(_: PushEvent) -> None:
        threads.append(threading.current_thread().name)

    assert (await HandlerCall(handler).deliver(Unit.of(ROW))).verdict is Verdict.DONE
    assert threads == ["event-handler"] * 2


async def test_one_that_only_looks_sync_is_awaited() -> None:
    seen: list[str] = []

    async def handler(prefix: str, event: PushEvent) -> None:
        seen.append(prefix + event.type)

    await HandlerCall(functools.partial(handler, "> ")).deliver(Unit.of(ROW))
    assert seen == ["> message.delivered"] * 2


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_one_that_raises_is_called_again(asynchronous: bool) -> None:
    async def later(_: PushEvent) -> None:
        raise KeyError("secret")

    def now(_: PushEvent) -> None:
        raise KeyError("secret")

    answer = await HandlerCall(later if asynchronous else now).deliver(Unit.of(ROW))
    assert answer.verdict is Verdict.AGAIN
    assert answer.why == "the handler raised KeyError"


async def test_one_that_hangs_is_given_up() -> None:
    async def handler(_: PushEvent) -> None:
        await asyncio.Event().wait()

    answer = await HandlerCall(handler, timeout_s=0.05).deliver(Unit.of(ROW))
    assert answer.why == "the handler took more than 0.05 s"


async def test_a_sync_one_that_hangs_takes_a_bounded_number_of_threads() -> None:
    released = threading.Event()

    def hang(_: PushEvent) -> None:
        released.wait()

    call = HandlerCall(hang, timeout_s=0.02)
    whys = [(await call.deliver(Unit.of(ROW))).why for _ in range(MOST_THREADS + 2)]
    released.set()
    assert whys[-2:] == ["the handler raised UnavailableError"] * 2


def test_the_same_function_is_the_same_receiver_everywhere() -> None:
    def handler(_: PushEvent) -> None: ...

    first, again = registered("message.read", handler, 0), registered("message.read", handler, 0)
    other = registered("message.read", handler, 1)
    assert first.key == again.key != other.key
    assert len(first.key) <= 64
