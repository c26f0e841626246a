"""照剧本演的服务器：真的套接字，WebSocket 与 SSE 都说 contract 的话，也能故意不守规矩。"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from aiohttp import WSCloseCode, WSMsgType, web

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


class GoneError(Exception):
    """客户端没有道别就不在了。"""


class Peer:
    """剧本手里的一条连接，WebSocket 或 SSE。"""

    kind: Literal["websocket", "sse"]

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self.path = urlsplit(request.raw_path)
        self.query = {name: values[0] for name, values in parse_qs(self.path.query).items()}
        self.headers: Mapping[str, str] = request.headers
        self.acked: list[str] = []
        self.close_code: int | None = None
        self.token = self._token()

    def _token(self) -> str:
        raise NotImplementedError

    async def send_raw(self, text: str | bytes) -> None:
        raise NotImplementedError

    async def trickle(self, frame: Frame) -> None:
        """一帧，分成许多小段慢慢到。"""
        raise NotImplementedError

    async def next_frame(self) -> Frame | None:
        """下一帧，不回答；None：客户端好好地走了。

        :raises GoneError: 没有道别
        """
        raise NotImplementedError

    async def close(self, code: int = 1000, reason: str = "") -> None:
        raise NotImplementedError

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
            await self.send_raw(json.dumps(frame))

    async def receive(self, kind: str) -> Frame:
        """下一帧这种类型的；途中的确认照常回答、记下。"""
        while (frame := await self.next_frame()) is not None:
            if frame["type"] == "ack":
                await self._answer_ack(frame)
            if frame["type"] == kind:
                return frame
        raise AssertionError(f"the client closed before sending {kind!r}")

    async def _answer_ack(self, frame: Frame) -> None:
        self.acked += frame["message_ids"]
        if "request_id" in frame:
            answer = {"accepted": len(frame["message_ids"]), "unknown": []}
            await self.send({"type": "ack_result", "request_id": frame["request_id"]} | answer)

    async def receive_acks(self, *numbers: int) -> None:
        """等到这些消息都确认过。"""
        while not set(map(message_id, numbers)) <= set(self.acked):
            await self.receive("ack")

    async def drop(self) -> None:
        """不打招呼就断。"""
        assert self._request.transport is not None
        self._request.transport.abort()

    async def stay(self) -> None:
        """听着，直到客户端走；确认照常回答。"""
        with contextlib.suppress(AssertionError, GoneError):
            await self.receive("nothing")


_PIECE, _PAUSE_S = 7, 0.001


class SocketPeer(Peer):
    kind = "websocket"

    def __init__(self, request: web.BaseRequest, socket: web.WebSocketResponse) -> None:
        super().__init__(request)
        self._socket = socket

    def _token(self) -> str:
        return self.headers["Sec-WebSocket-Protocol"].split("bearer.")[1]

    async def send_raw(self, text: str | bytes) -> None:
        with _gone():
            if isinstance(text, str):
                await self._socket.send_str(text)
            else:
                await self._socket.send_bytes(text)

    async def trickle(self, frame: Frame) -> None:
        payload = json.dumps(frame).encode()
        assert len(payload) < 65_536
        raw = b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload  # RFC 6455 5.2，不掩码
        assert self._request.transport is not None
        for start in range(0, len(raw), _PIECE):
            self._request.transport.write(raw[start : start + _PIECE])
            await asyncio.sleep(_PAUSE_S)

    async def next_frame(self) -> Frame | None:
        message = await self._socket.receive()
        if message.type is WSMsgType.TEXT:
            frame: Frame = json.loads(message.data)
            return frame
        self.close_code = self._socket.close_code
        if self.close_code in (None, WSCloseCode.ABNORMAL_CLOSURE):
            raise GoneError
        return None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._socket.close(code=code, message=reason.encode())


class StreamPeer(Peer):
    """确认是 REST 的 ``POST /acks``：变成没有 ``request_id`` 的一帧 ``ack``。"""

    kind = "sse"

    def __init__(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        super().__init__(request)
        self._response = response
        self.said: asyncio.Queue[Frame | None] = asyncio.Queue()

    def _token(self) -> str:
        return self.headers["Authorization"].removeprefix("Bearer ")

    async def send_raw(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        with _gone():
            await self._response.write(b"id: %b:0\ndata: %b\n\n" % (EPOCH.encode(), data))

    async def comment(self) -> None:
        with _gone():
            await self._response.write(b":\n\n")

    async def trickle(self, frame: Frame) -> None:
        raw = f"id: {EPOCH}:0\r\ndata: {json.dumps(frame)}\r\n\r\n".encode()
        with _gone():
            for start in range(0, len(raw), _PIECE):
                await self._response.write(raw[start : start + _PIECE])
                await asyncio.sleep(_PAUSE_S)

    async def next_frame(self) -> Frame | None:
        frame = await self.said.get()
        if frame is None:
            self.said.put_nowait(None)  # 再问也一样
        return frame

    async def close(self, code: int = 1000, reason: str = "") -> None:
        last = json.dumps({"code": code, "name": reason}).encode()
        with _gone():
            await self._response.write(b"event: close\ndata: %b\n\n" % last)
            await self._response.write_eof()


@contextlib.contextmanager
def _gone() -> Any:
    try:
        yield
    except (ConnectionError, RuntimeError) as error:  # aiohttp：写到关着的传输上
        raise GoneError from error


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


@dataclass(frozen=True)
class Refusal:
    """以 HTTP 回答升级、事件流或确认。"""

    status: int
    code: str = ""
    retry_after_s: int | None = None

    def answer(self) -> web.Response:
        headers = {"Location": "/elsewhere"}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        body = {"error": {"code": self.code, "message": "no", "temporary": self.status >= 429}}
        text = json.dumps(body) if self.code else ""
        return web.Response(status=self.status, text=text, headers=headers)


@dataclass
class ScriptedServer:
    """第 n 条连接演第 n 幕，演完的重演最后一幕；``refuse``：各条路先拒绝几次。"""

    scenes: tuple[Scene, ...]
    refuse: dict[str, list[Refusal]]
    peers: list[Peer] = field(default_factory=list)
    url: str = ""
    failure: BaseException | None = None
    _plays: set[asyncio.Task[None]] = field(default_factory=set)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if "/sse/" in request.path:
            return await self._stream(request)
        if request.path.endswith("/acks"):
            return await self._acks(request)
        return await self._upgrade(request)

    async def _upgrade(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.refuse["websocket"]:
            return self.refuse["websocket"].pop(0).answer()
        socket = web.WebSocketResponse(
            protocols=("meeting-push.v1",), compress=False, timeout=0.2, max_msg_size=0
        )
        await socket.prepare(request)
        await self._play(SocketPeer(request, socket))
        if not socket.closed:
            await socket.close()
        return socket

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.refuse["sse"]:
            return self.refuse["sse"].pop(0).answer()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.force_close()
        await response.prepare(request)
        await self._play(StreamPeer(request, response))
        return response

    async def _acks(self, request: web.BaseRequest) -> web.Response:
        if self.refuse["acks"]:
            return self.refuse["acks"].pop(0).answer()
        ids = (await request.json())["message_ids"]
        for peer in reversed(self.peers):
            if isinstance(peer, StreamPeer):
                peer.said.put_nowait({"type": "ack", "message_ids": ids})
                break
        return web.json_response({"accepted": len(ids), "unknown": []})

    async def _play(self, peer: Peer) -> None:
        """一幕演到底：客户端走了，由它自己看见。"""
        scene = self.scenes[min(len(self.peers), len(self.scenes) - 1)]
        self.peers.append(peer)
        play = asyncio.ensure_future(self._perform(scene, peer))
        self._plays.add(play)
        play.add_done_callback(self._plays.discard)
        try:
            await asyncio.shield(play)
        except asyncio.CancelledError:
            if isinstance(peer, StreamPeer):
                peer.said.put_nowait(None)
            raise

    async def _perform(self, scene: Scene, peer: Peer) -> None:
        try:
            await scene(peer)
        except GoneError:
            return
        except AssertionError as error:
            self.failure = error

    async def stop(self) -> None:
        for peer in self.peers:
            if peer._request.transport is not None:
                peer._request.transport.abort()
        for play in list(self._plays):
            play.cancel()
        await asyncio.gather(*self._plays, return_exceptions=True)


@asynccontextmanager
async def playing(
    *scenes: Scene,
    statuses: tuple[int, ...] = (),
    refuse: Mapping[str, list[Refusal]] | None = None,
    port: int = 0,
) -> AsyncIterator[ScriptedServer]:
    """剧本里的断言失败在离场时抛出。

    :param statuses: 升级先以这些 HTTP 状态拒绝
    :param refuse: ``websocket``、``sse``、``acks`` 各先拒绝几次
    """
    first = {"websocket": [Refusal(status) for status in statuses], "sse": [], "acks": []}
    script = ScriptedServer(scenes or (stay,), first | dict(refuse or {}))
    door = web.Server(script.answer, handler_cancellation=True)
    runner = web.ServerRunner(door, shutdown_timeout=0.1)
    await runner.setup()
    with socket.create_server(("127.0.0.1", port), backlog=128) as listening:
        listening.setblocking(False)
        await web.SockSite(runner, listening).start()
        script.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            yield script
        finally:
            # 先不再接：正在接的那一条要在关门之前坐下，不然 asyncio 会把它忘在半路
            asyncio.get_running_loop().remove_reader(listening)
            await asyncio.sleep(0)
            await script.stop()
            await runner.cleanup()
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
