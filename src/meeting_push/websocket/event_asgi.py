"""SSE 的慢驱动：普通的 ASGI 应答，给把我们内嵌进别的服务器的应用；也接快驱动没有接的。"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..http.listener import LINE
from ..http.request_ids import request_id
from ..protocol.codes import ended_by_peer
from ..protocol.event_stream import closing_event
from .asgi import QueueDriver
from .event_line import CONTENT_TYPE, refusal_of, stream_headers
from .handshake import Handshake
from .manager import ConnectionManager


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
        retry = (("retry-after", "1"),) if refusal.temporary else ()
        given = (*refusal.headers, *retry, ("content-type", "application/json"))
        size = ("content-length", str(len(refusal.body)))
        headers = [
            (n.encode(), v.encode()) for n, v in (*given, size, ("cache-control", "no-store"))
        ]
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
