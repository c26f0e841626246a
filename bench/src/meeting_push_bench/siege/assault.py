"""攻击者的手：从自己的地址拨号，数着发出的字节与得到的回答。"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Final, TypeVar

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from .orders import Town

#: 服务器该在 5 秒里回答或关掉；再久就是它没有管。
PATIENCE_S: Final = 8.0
_RETRY_S: Final = 0.05
T = TypeVar("T", bound=msgspec.Struct)
_length = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE).search


class Call:
    """一条到服务器的 TCP 连接。"""

    def __init__(
        self, assault: Assault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._assault = assault
        self._reader = reader
        self._writer = writer
        #: 上一个回答的正文。
        self._body = b""

    async def send(self, data: bytes) -> None:
        """:raises OSError: 服务器关掉了它"""
        self._writer.write(data)
        await self._writer.drain()
        self._assault.sent_bytes += len(data)

    async def answer(self) -> int:
        """一个完整的回答的状态码；关掉了或一直没有，为 0（记作 ``closed``、``silent``）。"""
        try:
            async with asyncio.timeout(PATIENCE_S):
                head = await self._reader.readuntil(b"\r\n\r\n")
                found = _length(head)
                self._body = await self._reader.readexactly(int(found[1]) if found else 0)
        except (EOFError, OSError, asyncio.LimitOverrunError):
            self._assault.answers["closed"] += 1
            return 0
        except TimeoutError:
            self._assault.answers["silent"] += 1
            return 0
        status = int(head[9:12])
        self._assault.answers[str(status)] += 1
        return status

    def said(self, kind: type[T]) -> T:
        """上一个回答里的；不是 ``kind`` 的样子就是个空的。"""
        try:
            return msgspec.json.decode(self._body, type=kind)
        except msgspec.MsgspecError:
            return kind()

    async def heard(self) -> None:
        """它说的第一句，多长都行（事件流没有长度）。"""
        try:
            async with asyncio.timeout(PATIENCE_S):
                said = await self._reader.read(65536)
        except TimeoutError:
            self._assault.answers["silent"] += 1
            return
        self._assault.answers[said[9:12].decode("latin-1") or "closed"] += 1

    async def until_closed(self) -> None:
        """读到服务器关掉它为止；太久就自己走。"""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await self._reader.read(65536):
                    pass
            self._assault.answers["closed"] += 1
        except TimeoutError:
            self._assault.answers["silent"] += 1


class Assault:
    def __init__(self, town: Town, address: str) -> None:
        self.town = town
        self.address = address
        self.random = Random(1)  # 可重复的攻击
        self.token = town.target.token(town.attacker_id)
        self.sent_bytes = 0
        self.answers: Counter[str] = Counter()
        self.numbers = itertools.count()

    @contextlib.asynccontextmanager
    async def call(self) -> AsyncIterator[Call]:
        """:raises OSError: 连不上"""
        target = self.town.target
        reader, writer = await asyncio.open_connection(
            target.host, target.port, local_addr=(self.address, 0), limit=2**20
        )
        try:
            yield Call(self, reader, writer)
        finally:
            writer.transport.abort()

    def head(
        self, method: str, path: str, *lines: str, token: bool = True, length: int | None = None
    ) -> bytes:
        """请求头；``length`` 是正文的长度，None 则没有正文。"""
        target = self.town.target
        host = f"Host: {target.host}:{target.port}"
        own = [f"Authorization: Bearer {self.token}"] if token else []
        body = ["Content-Type: application/json"]
        body += [] if length is None else [f"Content-Length: {length}"]
        return "\r\n".join([f"{method} {path} HTTP/1.1", host, *own, *body, *lines, "", ""]).encode(
            "utf-8", "surrogateescape"
        )

    async def post(
        self, call: Call, path: str, body: bytes, *lines: str, token: bool = True
    ) -> int:
        await call.send(self.head("POST", path, *lines, token=token, length=len(body)) + body)
        return await call.answer()

    async def keep_posting(
        self,
        workers: int,
        path: str,
        body: Callable[[], bytes],
        *,
        token: bool = True,
        lines: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        """``workers`` 条连接各自一个接一个地 POST。"""

        async def once() -> None:
            async with self.call() as call:
                while await self.post(call, path, body(), *lines(), token=token):
                    pass

        await self.forever(workers, once)

    async def forever(self, workers: int, once: Callable[[], Awaitable[None]]) -> None:
        """``workers`` 个一遍遍地做；被断开就重来。"""

        async def again() -> None:
            while True:
                try:
                    await once()
                except (OSError, EOFError, ConnectionClosed, InvalidHandshake) as error:
                    self.answers[type(error).__name__] += 1
                    await asyncio.sleep(_RETRY_S)

        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(again())

    @contextlib.asynccontextmanager
    async def socket(self, path: str, token: str | None = None) -> AsyncIterator[ClientConnection]:
        """攻击者自己的一条 WebSocket；不读也不积压。``token``：不是他平常的那一份。"""
        target = self.town.target
        async with connect(
            f"ws://{target.host}:{target.port}{path}",
            additional_headers={"Authorization": f"Bearer {token or self.token}"},
            local_addr=(self.address, 0),
            compression=None,
            ping_interval=None,
            open_timeout=PATIENCE_S,
            close_timeout=1,
        ) as socket:
            yield socket

    async def say(self, socket: ClientConnection, text: str) -> None:
        await socket.send(text)
        self.sent_bytes += len(text)
