"""走 SSE 的客户端：每条流一个 protocol，只数到达的消息。"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

from picows import WSMsgType

from ..device import Device
from ..fleet import CONNECT_TIMEOUT_S, source_address
from ..target import Target

_OK: Final = b"HTTP/1.1 200 "
_WELCOME: Final = b'{"type":"welcome"'
#: 每条消息恰有一个；只数它，不解码。
_MESSAGE: Final = b'"message_id":"'


class StreamDevice(Device, asyncio.Protocol):
    """也是它自己的 ``fleet.Link``。"""

    def __init__(
        self, welcomed: asyncio.Future[None], received: memoryview, lost: Callable[[str], None]
    ) -> None:
        super().__init__(welcomed)
        self._received = received
        self._report = lost
        self._tail = b""
        self._gone = asyncio.Event()
        self._transport: asyncio.Transport
        self.request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop 的不是它的子类
        self._transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        seen = self._tail + data
        if self.welcomed.done():
            self._received[0] += seen.count(_MESSAGE)
            self._tail = seen[1 - len(_MESSAGE) :]  # 一个名字可以断在两段之间
        elif _WELCOME in seen:
            self._tail = b""
            self.welcomed.set_result(None)
        elif len(seen) >= len(_OK) and not seen.startswith(_OK):
            self.welcomed.set_exception(ConnectionError(f"HTTP {seen[9:12].decode()}"))
        else:
            self._tail = seen

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        if self.closing:
            return
        self.lost = True
        if not self.welcomed.done():
            self.welcomed.set_exception(ConnectionError("connection lost"))
        elif self.welcomed.exception() is None:
            self._report("connection lost")

    # ── fleet.Link ────────────────────────────────────────────────────────

    def send(self, msg_type: WSMsgType, message: bytes, /) -> None:
        raise AssertionError("nothing is said on an event stream")

    def disconnect(self, graceful: bool = True, /) -> None:
        if graceful:
            self._transport.close()
        else:
            self._transport.abort()

    async def wait_disconnected(self) -> None:
        await self._gone.wait()


async def open_stream(
    target: Target, user_id: int, index: int, device: StreamDevice
) -> StreamDevice:
    """连上并等到 welcome；``index`` 决定源地址。

    :raises OSError, TimeoutError: 没连上
    """
    device.request = (
        f"GET /sse/user/{user_id}/messages HTTP/1.1\r\nHost: {target.host}:{target.port}\r\n"
        f"Accept: text/event-stream\r\nAuthorization: Bearer {target.token(user_id)}\r\n\r\n"
    ).encode()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        await loop.create_connection(
            lambda: device, target.host, target.port, local_addr=source_address(index)
        )
        await device.welcomed
    return device
