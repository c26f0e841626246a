"""一台可以停止读取的设备；平时照常确认。"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from ..target import Target

_RECEIVE_BUFFER: Final = 64 * 1024  # 小：很快就轮到服务器那一侧积压
_OPEN_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.05


class _Frame(msgspec.Struct):
    type: str
    message_id: str = ""
    messages: list[_Frame] = []


_decoder: Final = msgspec.json.Decoder(_Frame)


class SlowDevice:
    """``got``：收到过的 message_id。"""

    def __init__(self, websocket: ClientConnection) -> None:
        self.got: set[str] = set()
        self._websocket = websocket
        self._reading = asyncio.create_task(self._read())

    async def stop_reading(self) -> None:
        """此后一个字节也不读（库里的缓冲满了，TCP 窗口随之关上）。"""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._websocket.transport.pause_reading()

    async def wait_for(self, message_ids: set[str], timeout_s: float) -> int:
        """等到都收到，返回期限到时还缺几条。"""
        deadline = time.monotonic() + timeout_s
        while (missing := len(message_ids - self.got)) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        return missing

    async def close(self) -> None:
        self._reading.cancel()
        self._websocket.transport.abort()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in self._websocket:
                frame = _decoder.decode(text)
                ids = [one.message_id for one in (frame, *frame.messages) if one.message_id]
                if ids and frame.type in ("new_message", "batch"):
                    self.got.update(ids)
                    ack = msgspec.json.encode({"type": "ack", "message_ids": ids})
                    await self._websocket.send(ack.decode())


@contextlib.asynccontextmanager
async def slow_device(target: Target, user_id: int) -> AsyncIterator[SlowDevice]:
    """连上、在读；离开时断开。"""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (target.host, target.port))
    websocket = await connect(
        target.messages_url(user_id),
        sock=sock,
        additional_headers={"Authorization": f"Bearer {target.token(user_id)}"},
        open_timeout=_OPEN_TIMEOUT_S,
        ping_interval=None,
        max_size=None,
        max_queue=1,
        compression=None,
    )
    device = SlowDevice(websocket)
    try:
        yield device
    finally:
        await device.close()
