"""夹在节点与 Redis 之间的代理：懂 RESP，可以只吞掉频道消息，别的（PING、订阅的确认）照旧。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

_MESSAGE = b"*3\r\n$7\r\nmessage\r\n"


def reply_length(data: bytes, start: int = 0) -> int | None:
    """``start`` 处的一个完整回答（RESP2）到哪里为止；还没到齐则 None。"""
    end = data.find(b"\r\n", start)
    if end < 0:
        return None
    kind, rest, after = data[start : start + 1], data[start + 1 : end], end + 2
    if kind == b"$":
        after += int(rest) + 2 if int(rest) >= 0 else 0
        return after if after <= len(data) else None
    if kind != b"*":
        return after
    for _ in range(max(0, int(rest))):
        inner = reply_length(data, after)
        if inner is None:
            return None
        after = inner
    return after


class DeafProxy:
    """``deaf`` 置位时，节点收不到任何频道消息，而一切看上去都好。"""

    def __init__(self, redis_port: int) -> None:
        self.deaf = False
        self.swallowed = 0
        self.port = 0
        self._redis_port = redis_port
        self._pipes: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._redis_port)
        pipes = [
            asyncio.create_task(self._copy(reader, redis_writer)),
            asyncio.create_task(self._filter(redis_reader, writer)),
        ]
        self._pipes.update(pipes)
        await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        for pipe in pipes:
            pipe.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)
        self._pipes.difference_update(pipes)
        for one in (writer, redis_writer):
            one.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()

    async def _filter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pending = b""
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                pending += data
                while (length := reply_length(pending)) is not None:
                    reply, pending = pending[:length], pending[length:]
                    self._pass(reply, writer)

    def _pass(self, reply: bytes, writer: asyncio.StreamWriter) -> None:
        if self.deaf and reply.startswith(_MESSAGE):
            self.swallowed += 1
        else:
            writer.write(reply)

    async def close(self) -> None:
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)


@contextlib.asynccontextmanager
async def deaf_proxy(redis_port: int) -> AsyncIterator[DeafProxy]:
    proxy = DeafProxy(redis_port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
