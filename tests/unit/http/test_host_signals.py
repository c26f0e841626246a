"""接过 uvicorn 的信号：先送客；第二次立即停；不是它的不碰。"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest
import uvicorn

from meeting_push.http.host_signals import drained_first
from tests.support.eventually import eventually


@pytest.fixture
def server() -> Iterator[uvicorn.Server]:
    """只有它的信号处理函数。"""
    server = uvicorn.Server(uvicorn.Config("no:app", log_config=None))
    before = signal.signal(signal.SIGTERM, server.handle_exit)
    yield server
    signal.signal(signal.SIGTERM, before)


async def stopped(server: uvicorn.Server) -> bool:
    return server.should_exit


async def test_the_host_stops_after_the_guests_have_left(server: uvicorn.Server) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def drain() -> None:
        asked.set()
        await left.wait()

    with drained_first(drain):
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(asked.wait(), 10)
        assert not server.should_exit
        left.set()
        await eventually(lambda: stopped(server))
    assert signal.getsignal(signal.SIGTERM) == server.handle_exit


async def test_a_second_signal_does_not_wait(server: uvicorn.Server) -> None:
    async def drain() -> None:
        await asyncio.Event().wait()

    with drained_first(drain):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert server.should_exit


async def test_guests_that_can_not_be_sent_off_do_not_keep_the_host(
    server: uvicorn.Server, log: list[str]
) -> None:
    async def drain() -> None:
        raise OSError("gone")

    with drained_first(drain):
        signal.raise_signal(signal.SIGTERM)
        await eventually(lambda: stopped(server))
    assert any(line.startswith("drain_failed") for line in log)


async def test_the_signals_of_others_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    async def drain() -> None:
        raise AssertionError("not ours")

    with drained_first(drain):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
