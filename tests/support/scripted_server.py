"""照剧本演的服务器：真的套接字，说 contract 的话，也能故意不守规矩。"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from meeting_push.client import PushClient, ReceivedMessage

Frame = dict[str, Any]
EPOCH = "epoch-1"


def message_id(number: int) -> str:
    return f"{number:026d}"


def new_message(seq: int | None, *, number: int | None = None, **fields: Any) -> Frame:
    """一帧 ``new_message``；消息 id 由 ``number``（默认即 seq）决定。"""
    frame: Frame = {
        "type": "new_message",
        "seq": seq,
        "attempt": 0,
        "message_id": message_id(number if number is not None else seq or 0),
        "message_type": "message",
        "priority": 0,
        "title": f"title {seq}",
        "content": "content",
        "sender": {"id": 2, "name": "bob"},
        "timestamp": 1,
        "expires_at": 2,
        "data": None,
    }
    return frame | fields


class Peer:
    """剧本手里的一条连接。"""

    def __init__(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self._socket = socket
        self.path = urlsplit(socket.request.path)
        self.query = {name: values[0] for name, values in parse_qs(self.path.query).items()}
        self.headers: Headers = socket.request.headers
        self.token = self.headers["Sec-WebSocket-Protocol"].split("bearer.")[1]
        self.acked: list[str] = []

    async def welcome(self, **fields: Any) -> None:
        await self.send(
            {
                "type": "welcome",
                "connection_id": "connection-1",
                "user_id": 1,
                "device_id": self.query.get("device_id", "connection-1"),
                "epoch": EPOCH,
                "seq": 0,
                "heartbeat_interval_s": 30,
                "heartbeat_timeout_s": 60,
                "max_frame_bytes": 65536,
                "token_expires_at": 0,
                "resumed": "last_seq" in self.query,
                "pending": 0,
                "server_time": 0,
            }
            | fields
        )

    async def send(self, *frames: Frame) -> None:
        for frame in frames:
            await self._socket.send(json.dumps(frame))

    async def send_raw(self, text: str | bytes) -> None:
        await self._socket.send(text)

    async def receive(self, kind: str) -> Frame:
        """下一帧这种类型的；途中的确认照常回答、记下。"""
        async for text in self._socket:
            frame: Frame = json.loads(text)
            if frame["type"] == "ack":
                await self._answer_ack(frame)
            if frame["type"] == kind:
                return frame
        raise AssertionError(f"the client closed before sending {kind!r}")

    async def _answer_ack(self, frame: Frame) -> None:
        self.acked += frame["message_ids"]
        answer = {"accepted": len(frame["message_ids"]), "unknown": []}
        await self.send({"type": "ack_result", "request_id": frame["request_id"]} | answer)

    async def receive_acks(self, *numbers: int) -> None:
        """等到这些消息都确认过。"""
        while not set(map(message_id, numbers)) <= set(self.acked):
            await self.receive("ack")

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._socket.close(code, reason)

    async def drop(self) -> None:
        """不打招呼就断。"""
        self._socket.transport.abort()
        await self._socket.wait_closed()

    async def stay(self) -> None:
        """听着，直到客户端走；确认照常回答。"""
        try:
            await self.receive("nothing")
        except (AssertionError, ConnectionClosed):
            return


Scene = Callable[[Peer], Awaitable[None]]


async def stay(peer: Peer) -> None:
    """最平常的一幕：欢迎，然后听着。"""
    await peer.welcome()
    await peer.stay()


def sending(*frames: Frame, left: Signal | None = None) -> Scene:
    """欢迎，送出这些，然后听着；客户端走了，``left`` 得到它确认过的。"""

    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(*frames)
        await peer.stay()
        if left is not None:
            left.set(peer.acked)

    return scene


class ScriptedServer:
    """第 n 条连接演第 n 幕，演完的重演最后一幕。``statuses`` 先用 HTTP 状态拒绝几次升级。"""

    def __init__(self, *scenes: Scene, statuses: tuple[int, ...] = ()) -> None:
        self._scenes = scenes or (stay,)
        self._statuses = list(statuses)
        self.peers: list[Peer] = []
        self.url = ""
        self.failure: BaseException | None = None

    async def _play(self, socket: ServerConnection) -> None:
        peer = Peer(socket)
        scene = self._scenes[min(len(self.peers), len(self._scenes) - 1)]
        self.peers.append(peer)
        try:
            await scene(peer)
        except ConnectionClosed:
            return
        except AssertionError as error:
            self.failure = error

    def _refuse(self, socket: ServerConnection, request: Request) -> Response | None:
        if not self._statuses:
            return None
        status = HTTPStatus(self._statuses.pop(0))
        headers = Headers({"Location": "/elsewhere", "Content-Length": "0"})
        return Response(status, status.phrase, headers)


@asynccontextmanager
async def playing(
    *scenes: Scene, statuses: tuple[int, ...] = (), port: int = 0
) -> AsyncIterator[ScriptedServer]:
    """剧本里的断言失败在离场时抛出。"""
    script = ScriptedServer(*scenes, statuses=statuses)
    async with serve(
        script._play,
        "127.0.0.1",
        port,
        subprotocols=[Subprotocol("meeting-push.v1")],
        process_request=script._refuse,
        compression=None,
        close_timeout=0.2,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        script.url = f"http://127.0.0.1:{port}"
        yield script
    if script.failure is not None:
        raise script.failure


class Signal:
    """剧本与测试之间递一个值。"""

    def __init__(self) -> None:
        self._future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def set(self, value: Any = None) -> None:
        if not self._future.done():
            self._future.set_result(value)

    async def wait(self) -> Any:
        return await asyncio.wait_for(asyncio.shield(self._future), 30)


async def next_of(client: PushClient) -> ReceivedMessage:
    """迭代用法的下一条，等不到就失败。"""
    return await asyncio.wait_for(anext(client), 30)
