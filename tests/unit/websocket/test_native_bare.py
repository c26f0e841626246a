"""picows 自己的端口（角色 gateway）。"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager

from tests.support.edge_world import World, serve_bare
from tests.support.eventually import eventually

from .behaviour import EdgeBehaviour


class TestNativeBare(EdgeBehaviour):
    also_on_asyncio = True

    def serve(self, world: World) -> AbstractAsyncContextManager[None]:
        return serve_bare(world)

    async def test_probes_are_answered_on_the_same_port(self) -> None:
        async with self.world() as world:
            assert await get(world.port, "/healthz") == (200, b"ok\n")
            assert await get(world.port, "/nothing") == (404, b"not found\n")

    async def test_a_violation_that_picows_finds_is_counted(self) -> None:
        async with self.world(max_frame_bytes=1024) as world:
            async with world.live(1) as client:
                await client.websocket.send("x" * 3000)
                assert (await client.closed())[0] == 1009
            await eventually(lambda: world.manager.statistics().closes == {1009: 1})

    async def test_a_request_that_does_not_come_is_dropped(self) -> None:
        async with self.world(handshake_timeout_s=0.1) as world:
            for start in (b"", b"GET /ws/us", b"GET /ws/user/1/messages HTTP/1.1\r\n", b"GET /he"):
                reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
                writer.write(start)
                async with asyncio.timeout(5):
                    answer = await read_to_the_end(reader)
                assert answer.startswith(b"HTTP/1.1 408 ") if start else answer == b""
                writer.close()


async def read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(ConnectionResetError):
        return await reader.read()
    return b""


async def get(port: int, path: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body
