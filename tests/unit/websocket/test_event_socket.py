"""SSE 的快驱动：网关的端口，与 uvicorn 共用的端口。"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

import pytest

from tests.support.edge_world import World, serve_bare, serve_native_behind_uvicorn
from tests.support.eventually import eventually

from .streaming import StreamBehaviour, path_of


class TestBareStreams(StreamBehaviour):
    also_on_asyncio = True

    def serve(self, world: World) -> AbstractAsyncContextManager[None]:
        return serve_bare(world)

    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    async def test_an_old_proxy_reads_until_the_end(self, version: str) -> None:
        async with self.world() as world:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
            request = f"GET {path_of(1)} HTTP/{version}\r\nHost: h\r\n"
            writer.write(f"{request}Authorization: Bearer {world.token(1)}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"transfer-encoding" not in head
            assert b"connection: close" in head
            await reader.readuntil(b"\n\n")
            await world.manager.close_all()
            assert (await reader.read()).endswith(
                b'event: close\ndata: {"code":4000,"name":"server_draining"}\n\n'
            )
            writer.close()

    async def test_who_goes_on_talking_is_cut_off(self) -> None:
        async with self.world() as world:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
            request = f"GET {path_of(1)} HTTP/1.1\r\nHost: h\r\n"
            writer.write(f"{request}Authorization: Bearer {world.token(1)}\r\n\r\n".encode())
            await reader.readuntil(b"\n\n")
            writer.write(b"x" * 200_000)
            await eventually(lambda: world.manager.statistics().sockets == 0)
            writer.transport.abort()


class TestStreamsBehindUvicorn(StreamBehaviour):
    def serve(self, world: World) -> AbstractAsyncContextManager[None]:
        return serve_native_behind_uvicorn(world)

    async def test_the_line_is_taken_over(self) -> None:
        """没有 ASGI 的任务，也不占一个地址的 HTTP 连接。"""
        async with self.world() as world, world.stream(1) as stream:
            await stream.read()
            names = {task.get_name() for task in asyncio.all_tasks()}
            assert "sse_writer" not in names
