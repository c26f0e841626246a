"""一条攻击用的 TCP 连接：送字节、看对方关不关、以各种方式离开。"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from random import Random
from typing import Final

from ..target import Target
from . import http_requests
from .ws_frames import CLOSE, PING, PONG, frame


class Finding(Exception):  # noqa: N818 — 它是结果，不是压测自己的错
    """服务器没有像承诺的那样对待坏输入。文字说明是什么；哪个 case 由抓住它的人补上。"""


CONNECT_TIMEOUT_S: Final = 20.0
#: 服务器该关而没有关：握手 2 秒、心跳 8 秒的期限（``plan.SETTINGS``）加上机器忙的余地。
CLOSE_TIMEOUT_S: Final = 20.0
ANSWER_TIMEOUT_S: Final = 20.0
#: 攻击者的用户：远离 SQL 里的账号，也远离别的压测。
FIRST_USER_ID: Final = 3_000_000
USERS: Final = 5_000
#: 不与证人同一个地址：按地址的限制不该连累他。
_ADDRESSES: Final = [f"127.0.{high}.{low}" for high in (1, 2, 3, 4) for low in range(1, 255)]
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_READ_BYTES: Final = 65_536


class Attacker:
    """``random`` 决定它的用户与源地址；读到的不保留。"""

    def __init__(self, target: Target, random: Random) -> None:
        self._target = target
        self.user_id = FIRST_USER_ID + random.randrange(USERS)
        self.path = f"/ws/user/{self.user_id}/messages".encode()
        self._address = random.choice(_ADDRESSES)
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    @property
    def token(self) -> str:
        return self._target.token(self.user_id)

    @contextlib.asynccontextmanager
    async def connected(self, receive_buffer: int | None = None) -> AsyncIterator[None]:
        """离开时一定断开（多半以 RST：不留 TIME_WAIT）。

        :raises Finding: 服务器不接受连接
        """
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            sock.bind((self._address, 0))
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(
                    sock, (self._target.host, self._target.port)
                )
                self._reader, self._writer = await asyncio.open_connection(sock=sock)
        except (OSError, TimeoutError) as error:
            sock.close()
            raise Finding(f"can not connect: {error!r}") from None
        try:
            yield
        finally:
            self.reset()

    async def send(self, *parts: bytes) -> bool:
        """逐份写出，各等对方读走；对方已断开则 False。"""
        try:
            for part in parts:
                self._writer.write(part)
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await self._writer.drain()
                if len(parts) > 1:
                    await asyncio.sleep(0)
        except (OSError, TimeoutError):
            return False
        return True

    async def open(self, token: str | None = None) -> bool:
        """握手并等到 welcome；服务器不收则 False。"""
        request = http_requests.upgrade(self.path, self.token if token is None else token)
        return await self.send(request) and await self._until(b'"type":"welcome"')

    async def ping(self) -> None:
        """:raises Finding: 连接还在，却不回答 ping"""
        payload = b"%016x" % time.monotonic_ns()
        if await self.send(frame(PING, payload)):
            await self._until(frame(PONG, payload, mask=None))

    async def heart(self) -> bool:
        """一次心跳的来回；连接已不在则 False。

        :raises Finding: 连接还在，却不回答
        """
        stamp = time.time_ns() // 1_000_000
        beat = frame(1, b'{"type":"heartbeat","timestamp":%d}' % stamp)
        return await self.send(beat) and await self._until(b'"timestamp":%d' % stamp)

    async def end(self, *, half_close: bool = False) -> None:
        """发关闭帧（或只关写的一半），等服务器断开。

        :raises Finding: 期限内没有断开
        """
        if half_close:
            with contextlib.suppress(OSError, RuntimeError):
                self._writer.write_eof()
        elif not await self.send(frame(CLOSE, b"\x03\xe8")):
            return
        await self.closed()

    async def closed(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """:raises Finding: 期限内服务器没有断开"""
        try:
            async with asyncio.timeout(timeout_s):
                while await self._reader.read(_READ_BYTES):
                    pass
        except TimeoutError:
            raise Finding("the server keeps the socket open") from None
        except OSError:
            return

    def reset(self) -> None:
        """以 RST 断开：对方的读会报错，端口不进 TIME_WAIT。"""
        sock = self._writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._writer.transport.abort()

    async def _until(self, wanted: bytes) -> bool:
        """读到 ``wanted`` 为止；先断开则 False。

        :raises Finding: 没断开，也没有它
        """
        tail = b""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                while data := await self._reader.read(_READ_BYTES):
                    tail += data
                    if wanted in tail:
                        return True
                    tail = tail[-len(wanted) :]
        except TimeoutError:
            raise Finding(f"no answer: {wanted[:40]!r}") from None
        except OSError:
            return False
        return False
