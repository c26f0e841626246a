"""慢些但到处能跑的驱动：普通的 ASGI（WebSocket 与 SSE 的应答），给把我们内嵌进别的服务器的应用。

SSE 的也接快驱动没有接的。
ASGI 的发送是异步的，所以每条连接有一个写任务；它的积压与 picows 的写缓冲同样有高低水位，
再往上仍是同一个 ``Outbox``。
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ..http.listener import LINE
from ..http.refusals import FOREIGN_ORIGIN, NOT_FOUND, Refusal
from ..http.request_ids import HEADER, request_id
from ..http.upgrade_request import by_name
from ..limits.rate import TrustedProxies, rate_key
from ..person_id import PersonId
from ..protocol.codes import CloseCode, ended_by_peer
from ..protocol.envelope import FrameRun
from ..protocol.event_stream import closing_event
from .admission import Admission
from .event_line import CONTENT_TYPE, refusal_of, stream_headers
from .handshake import Handshake
from .line import Line, UserConnection
from .manager import ConnectionManager

#: 写任务的积压：高于它算阻塞，低于它恢复；同 asyncio 传输的默认值。
HIGH_WATER_BYTES: Final = 64 * 1024
LOW_WATER_BYTES: Final = 16 * 1024

Endpoint = Callable[[WebSocket, str], Awaitable[None]]


class QueueDriver:
    """``run`` 是写任务；``write``、``close`` 只排队。"""

    def __init__(self) -> None:
        self._queue: deque[bytes] = deque()
        #: 还没有写完的字节。
        self.backlog = 0
        self._closing: tuple[int, str] | None = None
        self._wake = asyncio.Event()
        self._blocked = False
        #: 它结束，连接就结束。
        self.reader = asyncio.current_task()
        self.aborted = False
        self.connection: Line | None = None

    async def _say(self, frame: bytes) -> None:
        raise NotImplementedError

    async def _part(self, code: int, reason: str) -> None:
        """最后一句。"""
        raise NotImplementedError

    def write(self, frame: bytes) -> None:
        self._queue.append(frame)
        self.backlog += len(frame)
        self._wake.set()
        if self.backlog > HIGH_WATER_BYTES and not self._blocked and self.connection is not None:
            self._blocked = True
            self.connection.blocked()

    def write_run(self, run: FrameRun) -> None:
        for frame, _ in run.frames:
            self.write(frame)

    def close(self, code: int, reason: str) -> None:
        self._closing = (code, reason)
        self._wake.set()

    def abort(self) -> None:
        """ASGI 没有“掐断”：让端点返回，服务器自会关闭传输。"""
        if not self.aborted and self.reader is not None:
            self.aborted = True
            self.reader.cancel()

    def detach(self) -> None:
        """断开了：拆开与连接、与任务的环，它们立即消失。"""
        self.connection = self.reader = None

    async def run(self) -> None:
        try:
            while True:
                await self._drain()
                if self._closing is not None:
                    await self._part(*self._closing)
                    return
                self._wake.clear()
                await self._wake.wait()
        except (WebSocketDisconnect, RuntimeError, OSError):
            # 对方已走；读的一侧也会得知，由它收尾。RuntimeError 是“已关闭还在发”
            self._queue.clear()

    async def _drain(self) -> None:
        while self._queue:
            frame = self._queue.popleft()
            await self._say(frame)
            self.backlog -= len(frame)
            if self._blocked and self.backlog <= LOW_WATER_BYTES:
                self._unblock()

    def _unblock(self) -> None:
        self._blocked = False
        if self.connection is not None:
            self.connection.unblocked()


class AsgiDriver(QueueDriver):
    def __init__(self, websocket: WebSocket) -> None:
        super().__init__()
        self._websocket = websocket

    async def _say(self, frame: bytes) -> None:
        await self._websocket.send({"type": "websocket.send", "text": frame.decode()})

    async def _part(self, code: int, reason: str) -> None:
        await self._websocket.close(code, reason)


def user_messages_endpoint(manager: ConnectionManager) -> Endpoint:
    """产出 ``/ws/user/{user_id}/messages`` 的端点；``user_id`` 要以文本收下（``01`` 不是 1）。"""
    largest = manager.limits.largest_read_bytes

    async def endpoint(websocket: WebSocket, user_id: str) -> None:
        person = manager.authenticator.ids.read(user_id)
        handshake = take_handshake(websocket, person or 0, manager.authenticator.proxies)
        if person is None:
            await turn_away(manager.admission, websocket, handshake, NOT_FOUND)
        elif not manager.origin_allowed(handshake):
            await turn_away(manager.admission, websocket, handshake, FOREIGN_ORIGIN)
        else:
            await manager.admission.pause(manager.upgrade_delay_s(handshake))
            await websocket.accept(handshake.accepted_subprotocol)
            await serve(websocket, partial(_accept, manager, handshake), largest)

    return endpoint


def _accept(manager: ConnectionManager, handshake: Handshake, driver: AsgiDriver) -> UserConnection:
    connection = manager.accept(handshake, driver)
    manager.relay(connection)
    return connection


def take_handshake(asked: HTTPConnection, person: PersonId, proxies: TrustedProxies) -> Handshake:
    """取出握手请求；查询串从此不在 ``asked`` 里：uvicorn 接受时打印整条 URL，令牌不能
    在里面（SEC-2，LESSONS 11）。``person`` 为 0：路径上没有用户。"""
    scope = asked.scope
    headers = by_name(
        [
            (name.decode("latin-1").lower(), value.decode("ascii", "surrogateescape"))
            for name, value in scope["headers"]
        ]
    )
    client = scope.get("client")
    query = scope["query_string"].decode("utf-8", "replace")
    scope["query_string"] = b""
    forwarded = headers.get("x-forwarded-for", ())
    address = proxies.client_address(client[0] if client else "", forwarded)
    return Handshake(person, query, headers, address)


async def turn_away(
    admission: Admission, websocket: WebSocket, handshake: Handshake, refusal: Refusal
) -> None:
    """升级之前以 HTTP 状态码拒绝；一再来的，晚些才说。"""
    await admission.keep_waiting(rate_key(handshake.ip_address))
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        headers = {HEADER: request_id(websocket.scope)}
        answer = Response(refusal.body, refusal.status, headers, "application/json")
        await websocket.send_denial_response(answer)
    else:
        await websocket.close()  # 服务器替我们回 403


def no_websocket(manager: ConnectionManager) -> Callable[[WebSocket], Awaitable[None]]:
    """产出别的路径的端点；不接住它，框架就回 403。"""

    async def endpoint(websocket: WebSocket) -> None:
        handshake = take_handshake(websocket, 0, manager.authenticator.proxies)
        await turn_away(manager.admission, websocket, handshake, NOT_FOUND)

    return endpoint


async def serve(
    websocket: WebSocket, open_line: Callable[[AsgiDriver], Line], largest_read_bytes: int
) -> None:
    """升级已完成：一直读到断开。更大的帧以 1009 断开。"""
    driver = AsgiDriver(websocket)
    line = driver.connection = open_line(driver)
    writer = asyncio.create_task(driver.run(), name="ws_writer")
    try:
        await _read(line, websocket, largest_read_bytes)
    except asyncio.CancelledError:
        if not driver.aborted:
            raise
    finally:
        line.lost()
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        driver.detach()


async def _read(line: Line, websocket: WebSocket, largest_read_bytes: int) -> None:
    while websocket.client_state is WebSocketState.CONNECTED:
        message = await websocket.receive()
        text = message.get("text")
        if text is not None:
            _receive_text(line, text.encode(), largest_read_bytes)
        elif message.get("bytes") is not None:
            line.receive_binary()
        elif line.closing_since is None:
            # 断开了。没有关闭帧时 uvicorn 也说 1005，只是没有原因这一项
            line.ending = ended_by_peer(message.get("code")) if "reason" in message else None


def _receive_text(line: Line, text: bytes, largest_read_bytes: int) -> None:
    if len(text) > largest_read_bytes:
        line.close(CloseCode.MESSAGE_TOO_BIG)
    else:
        line.receive(text)


class _Events(QueueDriver):
    """``cut``：掐断这条连接；服务器没有给办法的，只有让应答到此为止。"""

    def __init__(self, send: Send, known: str, cut: Callable[[], None]) -> None:
        super().__init__()
        self._send = send
        self._known = known
        self._cut = cut
        self._started = False

    @property
    def unsent(self) -> bool:
        return self.backlog > 0

    async def _say(self, frame: bytes) -> None:
        if not self._started:
            self._started = True
            # 请求的 id 由外面那层添
            headers = [h for h in stream_headers(self._known) if h[0] != b"x-request-id"]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": frame, "more_body": True})

    async def _part(self, code: int, _reason: str) -> None:
        if self._started:
            await self._send({"type": "http.response.body", "body": closing_event(code)})
            return
        refusal = refusal_of(code)
        fields = (*refusal.fields, ("cache-control", "no-store"))
        headers = [(name.encode(), value.encode()) for name, value in fields]
        await self._send(
            {"type": "http.response.start", "status": refusal.status, "headers": headers}
        )
        await self._send({"type": "http.response.body", "body": refusal.body})

    def abort(self) -> None:
        self._cut()
        super().abort()


class EventStream(Response):
    """``manager`` 的一条流；应答它的时间就是它的一生。"""

    media_type = CONTENT_TYPE

    def __init__(self, manager: ConnectionManager, handshake: Handshake) -> None:
        super().__init__()
        self._manager = manager
        self._handshake = handshake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        line = scope.get(LINE)
        driver = _Events(send, request_id(scope), _nothing if line is None else line.abort)
        connection = driver.connection = self._manager.accept_stream(self._handshake, driver)
        writer = asyncio.create_task(driver.run(), name="sse_writer")
        leaving = asyncio.create_task(_gone(receive), name="sse_reader")
        driver.reader = leaving
        try:
            await asyncio.wait((writer, leaving), return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() and not driver.aborted and connection.closing_since is None:
                connection.ending = ended_by_peer(None)
        finally:
            connection.lost()
            for task in (writer, leaving):
                task.cancel()
            await asyncio.gather(writer, leaving, return_exceptions=True)
            driver.detach()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _nothing() -> None:
    """没有别的办法。"""
