"""上限：裸的 picows 与裸的 hiredis，一次读到的都同步写出；除了推，什么也不做。"""

from __future__ import annotations

import asyncio
import logging
from typing import cast
from urllib.parse import urlsplit

import hiredis
import jwt
import uvloop
from contract import (
    BROADCAST_CHANNEL,
    HEARTBEAT_ACK,
    USER_CHANNELS,
    WELCOME,
    options,
    user_of,
)
from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_create_server,
)

OPTIONS = options()
ACTIVE: dict[bytes, set[WSTransport]] = {}
#: 给 Logger 时 picows 会为每条连接造一个子 logger；给 LoggerAdapter 不会。
LOG = logging.LoggerAdapter(logging.getLogger("picows"), {})


class Listener(WSListener):
    def __init__(self, channel: bytes) -> None:
        self.channel = channel

    def on_ws_connected(self, transport: WSTransport) -> None:
        ACTIVE.setdefault(self.channel, set()).add(transport)
        transport.send(WSMsgType.TEXT, WELCOME.encode())

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.TEXT:
            transport.send(WSMsgType.TEXT, HEARTBEAT_ACK.encode())
        elif frame.msg_type is WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        here = ACTIVE.get(self.channel, set())
        here.discard(transport)
        if not here:
            ACTIVE.pop(self.channel, None)


def listener_for(request: WSUpgradeRequest) -> WSListener | None:
    user_id = int(request.path.split(b"/")[3])
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    try:
        allowed = user_of(token) == user_id
    except jwt.PyJWTError:
        allowed = False
    return Listener(b"user:{%d}:messages" % user_id) if allowed else None


class Feed(asyncio.Protocol):
    """回答是 [b"message", 频道, 内容] 或 [b"pmessage", 样式, 频道, 内容]。"""

    def __init__(self) -> None:
        self.reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writable = cast(asyncio.WriteTransport, transport)
        writable.write(hiredis.pack_command(("PSUBSCRIBE", USER_CHANNELS)))
        writable.write(hiredis.pack_command(("SUBSCRIBE", BROADCAST_CHANNEL)))

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while (reply := self.reader.gets()) is not False:
            if reply[0] == b"pmessage":
                for transport in ACTIVE.get(reply[2], ()):
                    transport.send(WSMsgType.TEXT, reply[3])
            elif reply[0] == b"message":
                for here in ACTIVE.values():
                    for transport in here:
                        transport.send(WSMsgType.TEXT, reply[2])


async def main() -> None:
    loop, address = asyncio.get_running_loop(), urlsplit(OPTIONS.redis_url)
    if address.scheme == "unix":
        await loop.create_unix_connection(Feed, address.path)
    else:
        await loop.create_connection(Feed, address.hostname, address.port or 6379)
    server = await ws_create_server(
        listener_for,
        "127.0.0.1",
        OPTIONS.port,
        logger_name=LOG,
        read_buffer_init_size=1024,
        backlog=1024,
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
