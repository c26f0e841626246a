"""代理：放行时一个字节也不改；扣住、掐断、拒绝各如其名。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from meeting_push.bench.chaos.link import Link


class Echo:
    """记下收到的，原样送回。"""

    def __init__(self) -> None:
        self.received = asyncio.Queue[bytes]()
        self.done = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                self.received.put_nowait(data)
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()
            self.done.set()


@contextlib.asynccontextmanager
async def linked() -> AsyncIterator[tuple[Echo, Link]]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    link = await Link("test", server.sockets[0].getsockname()[1]).start()
    try:
        yield echo, link
    finally:
        await link.close()
        server.close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def dialled(link: Link) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def arrives(reader: asyncio.StreamReader, wanted: bytes) -> None:
    async with asyncio.timeout(5):
        assert await reader.readexactly(len(wanted)) == wanted


async def is_cut(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(5):
        try:
            return await reader.read(1) == b""
        except ConnectionError:
            return True


async def test_an_open_link_passes_everything_unchanged() -> None:
    payload = bytes(range(256)) * 20_000  # 5 MB：写不动时要反压
    async with linked() as (_, link), dialled(link) as (reader, writer):
        writer.write(payload)
        await arrives(reader, payload)


async def test_a_held_link_keeps_the_bytes_until_it_is_released() -> None:
    async with linked() as (echo, link), dialled(link) as (reader, writer):
        writer.write(b"1")
        await arrives(reader, b"1")
        await echo.received.get()
        link.hold(answers_only=False)
        writer.write(b"2")
        await writer.drain()
        async with dialled(link):  # 新来的也扣住，但接得通
            assert echo.received.empty()
        link.release()
        await arrives(reader, b"2")


async def test_holding_only_the_answers_lets_the_requests_through() -> None:
    async with linked() as (echo, link), dialled(link) as (reader, writer):
        link.hold(answers_only=True)
        writer.write(b"request")
        async with asyncio.timeout(5):
            assert await echo.received.get() == b"request"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.read(1)
        link.release()
        await arrives(reader, b"request")


async def test_a_cut_ends_the_connections_of_both_sides() -> None:
    async with linked() as (echo, link), dialled(link) as (reader, writer):
        writer.write(b"1")
        await arrives(reader, b"1")
        link.cut()
        assert await is_cut(reader)
        async with asyncio.timeout(5):
            await echo.done.wait()


async def test_after_a_cut_new_connections_work() -> None:
    async with linked() as (_, link):
        link.cut()
        async with dialled(link) as (reader, writer):
            writer.write(b"again")
            await arrives(reader, b"again")


async def test_a_refusing_link_cuts_whoever_comes_until_it_is_released() -> None:
    async with linked() as (_, link):
        link.refuse()
        async with dialled(link) as (reader, _):
            assert await is_cut(reader)
        link.release()
        async with dialled(link) as (reader, writer):
            writer.write(b"1")
            await arrives(reader, b"1")


async def test_a_dead_upstream_looks_like_a_cut() -> None:
    link = await Link("test", "/nowhere/at/all.sock").start()
    async with dialled(link) as (reader, _):
        assert await is_cut(reader)
    await link.close()
