"""SSE 的快驱动：读完请求头的传输直接归它，每条流一个 protocol，没有任务，没有 ASGI。

应答没有长度、不分块，到关闭为止（RFC 9112 6.3）：HTTP/1.0 的代理也读得懂。
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, Final, cast

from ..http.cors import Cors, Header
from ..http.request_ids import HEADER, NAME, chosen
from ..http.upgrade_request import Headers, UpgradeRequest
from ..protocol.codes import CloseCode, ended_by_peer
from ..protocol.envelope import FrameRun
from ..protocol.event_stream import closing_event
from .event_line import EventConnection, refusal_of, stream_headers
from .handshake import Handshake
from .manager import ConnectionManager

#: 请求之后再说这么多还不停的，掐断。
MAX_IGNORED_BYTES: Final = 64 * 1024
#: Linux：发出去的这么久没有人收下，内核就断开。
_TCP_USER_TIMEOUT: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)


class EventSocket(asyncio.Protocol):
    """``siblings``：uvicorn 关机时逐个调用 ``shutdown`` 的；``granted``：CORS 的头。"""

    __slots__ = (
        "_connection",
        "_granted",
        "_handshake",
        "_ignored",
        "_manager",
        "_request_id",
        "_siblings",
        "_started",
        "_transport",
    )

    def __init__(
        self,
        manager: ConnectionManager,
        handshake: Handshake,
        siblings: set[Any],
        request_id: str,
        granted: tuple[Header, ...],
    ) -> None:
        self._manager = manager
        self._handshake: Handshake | None = handshake
        self._siblings = siblings
        self._request_id = request_id
        self._granted = granted
        self._started = False
        self._ignored = 0
        self._connection: EventConnection | None = None
        self._transport: asyncio.Transport

    # ── 传输的回调 ─────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        _notice_silence(self._transport, self._manager.limits.heartbeat_timeout_ms)
        handshake, self._handshake = self._handshake, None
        assert handshake is not None, "a stream begins once"
        self._siblings.add(self)
        self._connection = self._manager.accept_stream(handshake, self)

    def data_received(self, data: bytes) -> None:
        """没有人要：这条连接上不再有请求。"""
        self._ignored += len(data)
        if self._ignored > MAX_IGNORED_BYTES:
            self._transport.abort()

    def eof_received(self) -> bool | None:
        """关了页面、退出了应用的就是这样走的：没有别的告别。"""
        connection = self._connection
        if connection is not None and connection.closing_since is None:
            connection.ending = ended_by_peer(None)
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._siblings.discard(self)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.lost()

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.blocked()

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.unblocked()

    def shutdown(self) -> None:
        """同 ``NativeSocket.shutdown``。"""
        if self._connection is not None:
            self._connection.close(CloseCode.SERVER_DRAINING)

    # ── EventDriver ───────────────────────────────────────────────────────

    @property
    def unsent(self) -> bool:
        return self._transport.get_write_buffer_size() > 0

    def write(self, frame: bytes) -> None:
        if self._started:
            self._transport.write(frame)
        else:
            self._started = True
            headers = stream_headers(self._request_id, self._granted)
            lines = b"".join([b"%b: %b\r\n" % each for each in headers])
            self._transport.write(
                b"HTTP/1.1 200 OK\r\n%bconnection: close\r\n\r\n%b" % (lines, frame)
            )

    def write_run(self, run: FrameRun) -> None:
        raise AssertionError("an event stream writes frame by frame")

    def close(self, code: int, reason: str) -> None:
        if self._started:
            last = closing_event(code)
        else:
            last = refusal_of(code).answer(self._request_id, self._granted)
        self._transport.write(last)
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


class EventDoor:
    """事件流的门：``siblings`` 见 ``EventSocket``。"""

    def __init__(self, manager: ConnectionManager, siblings: set[Any], cors: Cors) -> None:
        self._manager = manager
        self._siblings = siblings
        self._cors = cors

    def open(self, request: UpgradeRequest, handshake: Handshake) -> EventSocket:
        given = request.values(HEADER)
        known = chosen(given[0] if given else "")
        return EventSocket(self._manager, handshake, self._siblings, known, self.granted(request))

    def granted(self, request: UpgradeRequest) -> tuple[Header, ...]:
        """CORS 的头。"""
        return self._cors.headers(_bytes(request.headers)) if self._cors else ()

    def preflight(self, request: UpgradeRequest) -> bytes | None:
        """预检的回答；不是预检则 None。"""
        asked = {"method": request.method, "headers": _bytes(request.headers)}
        headers = self._cors.preflight(asked)
        if headers is None:
            return None
        given = request.values(HEADER)
        named = (*headers, (NAME, chosen(given[0] if given else "").encode()))
        lines = b"".join([b"%b: %b\r\n" % each for each in named])
        return b"HTTP/1.1 204 No Content\r\n%bconnection: close\r\n\r\n" % lines


def _bytes(headers: Headers) -> list[Header]:
    return [(name.encode(), value.encode("ascii", "surrogateescape")) for name, value in headers]


def _notice_silence(transport: asyncio.Transport, timeout_ms: int) -> None:
    """对方的机器没了：一行注释只有几个字节，内核要重传一刻钟才肯说写不出去。"""
    sock = transport.get_extra_info("socket")
    if sock is not None and _TCP_USER_TIMEOUT is not None:
        with contextlib.suppress(OSError):  # 不是 TCP
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, timeout_ms)
