"""代理：放行时一个字节也不改；扣住、掐断、拒绝、吞掉、拖延各如其名。"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from meeting_push_bench.tcp_proxy import MAX_KEPT_BYTES, TcpProxy
from tests.support.eventually import eventually
from tests.support.proxy_thread import proxy_thread


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
async def proxied() -> AsyncIterator[tuple[Echo, TcpProxy]]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    proxy = await TcpProxy(server.sockets[0].getsockname()[1]).start()
    try:
        yield echo, proxy
    finally:
        await proxy.close()
        server.close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def dialled(
    proxy: TcpProxy,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
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


async def test_an_open_proxy_passes_everything_unchanged() -> None:
    payload = bytes(range(256)) * 20_000  # 5 MB：写不动时要反压
    async with proxied() as (_, proxy), dialled(proxy) as (reader, writer):
        writer.write(payload)
        await arrives(reader, payload)


async def test_a_held_proxy_keeps_the_bytes_until_it_is_released() -> None:
    async with proxied() as (echo, proxy), dialled(proxy) as (reader, writer):
        writer.write(b"1")
        await arrives(reader, b"1")
        await echo.received.get()
        proxy.hold(answers_only=False)
        writer.write(b"2")
        await writer.drain()
        async with dialled(proxy):  # 新来的也扣住，但接得通
            assert echo.received.empty()
        proxy.release()
        await arrives(reader, b"2")


async def test_holding_only_the_answers_lets_the_requests_through() -> None:
    async with proxied() as (echo, proxy), dialled(proxy) as (reader, writer):
        proxy.hold(answers_only=True)
        writer.write(b"request")
        async with asyncio.timeout(5):
            assert await echo.received.get() == b"request"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.read(1)
        proxy.release()
        await arrives(reader, b"request")


async def test_a_cut_ends_the_connections_of_both_sides() -> None:
    async with proxied() as (echo, proxy), dialled(proxy) as (reader, writer):
        writer.write(b"1")
        await arrives(reader, b"1")
        proxy.cut()
        assert await is_cut(reader)
        async with asyncio.timeout(5):
            await echo.done.wait()


async def test_after_a_cut_new_connections_work() -> None:
    async with proxied() as (_, proxy):
        proxy.cut()
        async with dialled(proxy) as (reader, writer):
            writer.write(b"again")
            await arrives(reader, b"again")


async def test_a_refusing_proxy_cuts_whoever_comes_until_it_is_released() -> None:
    async with proxied() as (_, proxy):
        proxy.refuse()
        async with dialled(proxy) as (reader, _):
            assert await is_cut(reader)
        proxy.release()
        async with dialled(proxy) as (reader, writer):
            writer.write(b"1")
            await arrives(reader, b"1")


async def test_a_dead_upstream_looks_like_a_cut() -> None:
    proxy = await TcpProxy("/nowhere/at/all.sock").start()
    async with dialled(proxy) as (reader, _):
        assert await is_cut(reader)
    await proxy.close()


async def test_a_half_open_proxy_accepts_and_swallows() -> None:
    async with proxied() as (echo, proxy), dialled(proxy) as (_, old):
        old.write(b"1")
        assert await echo.received.get() == b"1"
        proxy.swallow()
        old.write(b"2")
        async with dialled(proxy) as (_, new):
            new.write(b"3")
            await eventually(lambda: proxy.swallowed == 2)
        assert echo.received.empty()
        assert not echo.done.is_set()


async def test_who_lost_bytes_is_cut_when_it_heals_and_the_next_one_works() -> None:
    async with proxied() as (_, proxy), dialled(proxy) as (old, writer):
        writer.write(b"1")
        await arrives(old, b"1")
        proxy.swallow()
        writer.write(b"2")
        await eventually(lambda: proxy.swallowed)
        proxy.release()
        assert await is_cut(old)
        async with dialled(proxy) as (reader, writer):
            writer.write(b"3")
            await arrives(reader, b"3")


async def test_a_side_that_leaves_a_half_open_proxy_is_not_missed_by_the_other() -> None:
    async with proxied() as (echo, proxy):
        async with dialled(proxy) as (reader, writer):
            writer.write(b"1")
            await arrives(reader, b"1")
            proxy.swallow()
        assert not echo.done.is_set()
        proxy.release()
        async with asyncio.timeout(5):
            await echo.done.wait()


async def test_swallowing_only_the_answers_lets_the_requests_through() -> None:
    async with proxied() as (echo, proxy), dialled(proxy) as (_, old):
        proxy.swallow(answers_only=True)
        old.write(b"1")
        async with dialled(proxy) as (_, new):
            assert await echo.received.get() == b"1"
            new.write(b"2")
            assert await echo.received.get() == b"2"
            await eventually(lambda: proxy.swallowed == 2)


async def test_a_slow_proxy_delays_and_keeps_the_order() -> None:
    loop = asyncio.get_running_loop()
    async with proxied() as (_, proxy), dialled(proxy) as (reader, writer):
        proxy.delay(0.05)
        start = loop.time()
        writer.write(b"1")
        await writer.drain()
        writer.write(b"2")
        await arrives(reader, b"12")
        assert loop.time() - start >= 0.1  # 去与回


async def test_a_slow_proxy_keeps_a_bounded_amount() -> None:
    payload = bytes(32 * MAX_KEPT_BYTES)
    async with proxied() as (_, proxy), dialled(proxy) as (reader, writer):
        proxy.delay(30)
        writer.write(payload)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await writer.drain()
        kept = sum(side._kept_bytes for side in proxy.sides)
        assert kept < 2 * MAX_KEPT_BYTES
        proxy.release()
        await arrives(reader, payload)


def test_in_its_own_thread_it_serves_a_blocking_caller() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as upstream,
        proxy_thread(upstream.getsockname()[1]) as proxy,
    ):
        url = proxy.through("redis://name:secret@localhost:1/0")
        assert url == f"redis://name:secret@127.0.0.1:{proxy.port}/0"
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
            served, _ = upstream.accept()
            with served:
                client.sendall(b"1")
                assert served.recv(1) == b"1"
                proxy.cut()
                with contextlib.suppress(ConnectionError):
                    assert client.recv(1) == b""
