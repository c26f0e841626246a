"""说 Socket.IO 的客户端：只为与 python-socketio 比较；只有够用的那一点协议（EIO 4、WebSocket）。"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
from picows import WSFrame, WSMsgType, WSTransport

from ..device import Device
from ..target import Target

_OPEN: Final = b"0"
_PING: Final = b"2"
_PONG: Final = b"3"
_CONNECTED: Final = b"40"
_EVENT: Final = b"42"
_REFUSED: Final = b"44"


class SocketIoDevice(Device):
    """握手、答 ping、数事件。"""

    def __init__(self, welcomed: asyncio.Future[None], received: memoryview, token: str) -> None:
        super().__init__(welcomed)
        self._received = received
        self._token = token

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is not WSMsgType.TEXT:
            super().on_ws_frame(transport, frame)
            return
        payload = frame.get_payload_as_bytes()
        if payload.startswith(_EVENT):
            self._received[0] += 1
        elif payload.startswith(_PING):
            transport.send(WSMsgType.TEXT, _PONG)
        elif payload.startswith(_CONNECTED):
            self.welcomed.set_result(None)
        elif payload.startswith(_OPEN):
            auth = msgspec.json.encode({"token": self._token})
            transport.send(WSMsgType.TEXT, _CONNECTED + auth)
        elif payload.startswith(_REFUSED) and not self.welcomed.done():
            self.welcomed.set_exception(ConnectionError("refused"))


def socketio_url(target: Target) -> str:
    return f"ws://{target.host}:{target.port}/socket.io/?EIO=4&transport=websocket"


def socketio_emit(room: str | None, frame: bytes) -> bytes:
    """``AsyncRedisManager(write_only=True).emit("new_message", …)`` 发布的内容。"""
    return msgspec.json.encode(
        {
            "method": "emit",
            "event": "new_message",
            "data": [msgspec.json.decode(frame)],
            "binary": False,
            "namespace": "/",
            "room": room,
            "skip_sid": None,
            "callback": None,
            "host_id": "bench",
        }
    )
