"""听着的端口：连来就走的不进来，也不挡着后面的。"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from meeting_push.http import listener
from meeting_push.http.listener import SWEPT_AT_ONCE, Listener, has_left

LINUX_ONLY = pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="TCP_INFO is Linux's")


class Door:
    """一个监听者，与进来的、走了的。"""

    def __init__(self) -> None:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        self.address = sock.getsockname()
        self.left = 0
        self.leaving: asyncio.Queue[int] = asyncio.Queue()
        self.entered: asyncio.Queue[asyncio.Transport] = asyncio.Queue()
        self.lost = asyncio.Event()
        self.transports: list[asyncio.Transport] = []
        self.listener = Listener(sock, lambda: _Guest(self), self._note_left)

    def _note_left(self, count: int) -> None:
        self.left += count
        self.leaving.put_nowait(count)

    def dial(self, source: str = "127.0.0.1") -> socket.socket:
        """连上内核的队；监听者还没有机会接。"""
        return socket.create_connection(self.address, source_address=(source, 0))

    def dial_and_leave(self) -> None:
        with self.dial() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")


class _Guest(asyncio.Protocol):
    def __init__(self, door: Door) -> None:
        self._door = door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._door.transports.append(transport)
        self._door.entered.put_nowait(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.lost.set()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    door = Door()
    yield door
    door.listener.close()
    await door.listener.wait_closed()
    for transport in door.transports:
        transport.abort()
    await asyncio.sleep(0)


@LINUX_ONLY
async def test_a14_who_left_before_his_turn_never_enters(door: Door) -> None:
    """A14：连来就走的在门外就关掉、计数；后面还在的照样进来。"""
    for _ in range(3 * SWEPT_AT_ONCE):
        door.dial_and_leave()
    with door.dial():
        async with asyncio.timeout(5):
            transport = await door.entered.get()
        assert door.left == 3 * SWEPT_AT_ONCE
        assert not has_left(transport)


@LINUX_ONLY
async def test_a14_who_leaves_later_is_seen_to_have_left(door: Door) -> None:
    with door.dial() as sock:
        async with asyncio.timeout(5):
            transport = await door.entered.get()
        transport.pause_reading()
        sock.shutdown(socket.SHUT_WR)
        assert has_left(transport)


@LINUX_ONLY
async def test_a14_who_came_with_those_who_left_and_leaves_soon_never_enters(door: Door) -> None:
    """同来的多半一样：歇过之后还在的才办。"""
    door.dial_and_leave()
    with door.dial():
        assert await asyncio.wait_for(door.leaving.get(), 5) == 1
    assert await asyncio.wait_for(door.leaving.get(), 5) == 1
    assert door.entered.empty()


@LINUX_ONLY
async def test_a14_who_waited_beside_those_who_left_enters(door: Door) -> None:
    door.dial_and_leave()
    with door.dial():
        async with asyncio.timeout(5):
            assert not has_left(await door.entered.get())


@LINUX_ONLY
async def test_a14_who_comes_from_elsewhere_enters_at_once(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """别处连来就走的，不让他等：歇多久都与他无关。"""
    monkeypatch.setattr(listener, "REST_S", 3_600.0)
    for _ in range(3):
        door.dial_and_leave()
    with door.dial("127.0.0.2"):
        async with asyncio.timeout(5):
            transport = await door.entered.get()
        assert transport.get_extra_info("peername")[0] == "127.0.0.2"


@LINUX_ONLY
async def test_a14_an_address_is_watched_only_for_a_while(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "WATCHED_S", 0.0)
    door.dial_and_leave()
    assert await asyncio.wait_for(door.leaving.get(), 5) == 1
    monkeypatch.setattr(listener, "REST_S", 3_600.0)  # 还看着他的话，就等到这么久以后
    with door.dial():
        await asyncio.wait_for(door.entered.get(), 5)


@LINUX_ONLY
async def test_a14_who_breaks_off_never_enters_either(door: Door) -> None:
    """RST，不是 FIN。"""
    with door.dial() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert await asyncio.wait_for(door.leaving.get(), 5) == 1
    assert door.entered.empty()


@LINUX_ONLY
async def test_a14_addresses_of_those_who_left_are_bounded(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MOST_WATCHED", 2)
    for number in range(1, 5):
        with door.dial(f"127.0.0.{number}") as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert await asyncio.wait_for(door.leaving.get(), 5) == 4
    assert list(door.listener._watched) == ["127.0.0.3", "127.0.0.4"]


async def test_a_line_of_ours_that_is_closed_is_left(door: Door) -> None:
    with door.dial():
        async with asyncio.timeout(5):
            transport = await door.entered.get()
        transport.abort()
        assert has_left(transport)
        await asyncio.wait_for(door.lost.wait(), 5)
        assert has_left(transport)


async def test_a_burst_of_people_who_stay_all_enter(door: Door) -> None:
    dialled = [door.dial() for _ in range(100)]
    async with asyncio.timeout(5):
        for _ in dialled:
            await door.entered.get()
    for sock in dialled:
        sock.close()


async def test_a_closed_listener_refuses(door: Door) -> None:
    door.listener.close()
    with pytest.raises(ConnectionRefusedError):
        door.dial()


async def test_it_is_well_again_when_descriptors_are(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """描述符用完了：歇一会儿再接，不空转，也不丢掉排着的。"""

    tried = asyncio.Event()

    def exhausted(_self: socket.socket) -> tuple[int, object]:
        tried.set()
        raise OSError(24, "Too many open files")

    with door.dial():
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "_accept", exhausted, raising=False)
            await asyncio.wait_for(tried.wait(), 5)
            assert door.entered.empty()
        async with asyncio.timeout(5):
            await door.entered.get()
