"""快的驱动：picows（Cython），推一帧的路上没有协程；每个 socket 是一个 ``NativeSocket``。

uvicorn 的 ``Config(ws=…)`` 收下任何产出 protocol 的可调用物：``native_edge`` 产出
门厅（``front``），用户连接交给 picows，其余照旧。角色 gateway 用
``serve_native``：同一个监听器，没有 uvicorn。
"""

from __future__ import annotations

import asyncio
import codecs
import logging
import socket
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final, NoReturn, cast

from picows import (
    WSAutoPingStrategy,
    WSFrame,
    WSListener,
    WSMsgType,
    WSProtocolError,
    WSTransport,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # 存根里没有它

from ..http.cors import Cors
from ..http.doorway import Doorway
from ..http.listener import Listener
from ..http.ops_http import OpsEndpoint, OpsHttp
from ..protocol.codes import CloseCode, ended_by_peer, ended_by_us, may_be_received
from ..protocol.envelope import FrameRun
from ..protocol.frames import SUBPROTOCOL
from .admission import Deadlines
from .event_socket import EventDoor
from .front import BareFront, Front
from .handshake import PATH_PREFIX, STREAM_PREFIX, Handshake
from .line import UserConnection
from .manager import ConnectionManager
from .uvicorn_socket import BoundedWebSocket

_utf8_decoder: Final = codecs.getincrementaldecoder("utf-8")


class PartialMessage:
    """``largest_bytes`` 是整条消息的上限。"""

    __slots__ = ("_buffer", "_decoder", "_largest_bytes", "text")

    def __init__(self, largest_bytes: int, *, text: bool) -> None:
        self.text = text
        self._largest_bytes = largest_bytes
        self._buffer = bytearray()
        self._decoder = _utf8_decoder() if text else None

    def add(self, part: bytes, *, last: bool) -> CloseCode | None:
        """加上一片；坏了就返回该用的关闭码。半个字符可以等下一片，坏的字节不等。"""
        if len(self._buffer) + len(part) > self._largest_bytes:
            return CloseCode.MESSAGE_TOO_BIG
        self._buffer += part
        if self._decoder is not None:
            try:
                self._decoder.decode(part, last)
            except UnicodeDecodeError:
                return CloseCode.INVALID_UTF8
        return None

    def joined(self) -> bytes:
        return bytes(self._buffer)


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


#: picows 对更大的帧用 ``writelines``，头部是指向它内部缓冲的视图：传输里已有积压时，
#: uvloop 留着这个视图而缓冲已被下一帧改写，线上就乱了。所以更大的帧自己拼好再交。
_COPY_ABOVE_BYTES: Final = 8192
_TEXT: Final = WSMsgType.TEXT
_HEADER_ROOM: Final = 14  # ``send_reuse_external_bytearray`` 要求的


class NativeSocket(WSListener):
    """``siblings`` 是 uvicorn 关机时逐个调用 ``shutdown`` 的那个集合。"""

    __slots__ = (
        "_connection",
        "_echo",
        "_handshake",
        "_manager",
        "_partial",
        "_send",
        "_siblings",
        "_transport",
    )

    def __init__(
        self, manager: ConnectionManager, handshake: Handshake, siblings: set[Any]
    ) -> None:
        self._manager = manager
        self._handshake: Handshake | None = handshake
        self._siblings = siblings
        self._connection: UserConnection | None = None
        #: 分片消息已到的部分；picows 不合并 CONTINUATION。
        self._partial: PartialMessage | None = None
        #: 对方先关：它的关闭帧的内容。
        self._echo: bytes | None = None
        self._transport: WSTransport
        self._send: Callable[[WSMsgType, bytes], None]

    # ── picows 的回调 ─────────────────────────────────────────────────────

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport, self._send = transport, transport.send
        del transport.request.headers, transport.request.path  # 1 KB，此后没人再看
        handshake, self._handshake = self._handshake, None
        assert handshake is not None, "picows connects a listener once"
        self._siblings.add(self)
        self._connection = self._manager.accept(handshake, self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        connection = self._connection
        if connection is None:
            return
        kind = frame.msg_type
        if connection.closing_since is not None:  # 说过再见了：只等对方的那一声（RFC 6455 7.1.7）
            if kind is WSMsgType.CLOSE:
                transport.disconnect()
            return
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._fail(connection, CloseCode.PROTOCOL_ERROR)
        if kind is WSMsgType.TEXT and frame.fin and self._partial is None:
            text = frame.get_payload_as_bytes()
            if not (text.isascii() or is_utf8(text)):
                self._fail(connection, CloseCode.INVALID_UTF8)
            connection.receive(text)
        elif kind is WSMsgType.PING:
            # 灌 ping 而不读的客户端：积压时不回，pong 不能成为无界的缓冲（CON-1）
            if connection.outbox.blocked_since is None:
                transport.send_pong(frame.get_payload_as_bytes())
        elif kind is WSMsgType.CLOSE:
            self._on_close(connection, frame.get_payload_as_bytes())
        elif kind is not WSMsgType.PONG:
            self._join(connection, kind, frame)

    def _on_close(self, connection: UserConnection, payload: bytes) -> None:
        """对方先走：原样回它的关闭帧。原因的 UTF-8 与一字节的内容 picows 查过了。"""
        if self._transport.is_close_frame_sent:  # picows 已为帧头的违规关闭，这是回声
            self._transport.disconnect()
            return
        if payload and not may_be_received(int.from_bytes(payload[:2], "big")):
            self._fail(connection, CloseCode.PROTOCOL_ERROR)
        self._echo = payload
        connection.ending = ended_by_peer(int.from_bytes(payload[:2], "big") or None)
        connection.close(CloseCode.NORMAL)
        self._transport.disconnect()

    def _join(self, connection: UserConnection, kind: WSMsgType, frame: WSFrame) -> None:
        """二进制与分片消息：有界地合并，完整后照一帧处理。"""
        if (kind is WSMsgType.CONTINUATION) is (self._partial is None):
            self._fail(connection, CloseCode.PROTOCOL_ERROR)
        if self._partial is None:
            largest = self._manager.limits.largest_read_bytes
            self._partial = PartialMessage(largest, text=kind is WSMsgType.TEXT)
        partial = self._partial
        failure = partial.add(frame.get_payload_as_bytes(), last=frame.fin)
        if failure is not None:
            self._fail(connection, failure)
        if frame.fin:
            self._partial = None
            if partial.text:
                connection.receive(partial.joined())
            else:
                connection.receive_binary()

    def _fail(self, connection: UserConnection, code: CloseCode) -> NoReturn:
        """RFC 6455 7.1.7：以 ``code`` 关闭，不再理会其后的；picows 接住这个异常，稍后断开。"""
        connection.close(code)
        raise WSProtocolError(code, code.reason)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """帧头的违规（1002、1009）由 picows 自己关闭，那时没有告诉我们。"""
        self._siblings.discard(self)
        connection, self._connection = self._connection, None
        if connection is None:
            return
        sent = transport.close_handshake.sent if transport.close_handshake else None
        if connection.closing_since is None and sent is not None:
            code = cast(int, sent.code)
            self._manager.counters.closes[code] += 1
            connection.ending = ended_by_us(code)
        connection.lost()

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.blocked()

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.unblocked()

    def shutdown(self) -> None:
        """uvicorn 关机时对它的每条连接调用；正常关机时 ``close_all`` 已在它之前。"""
        if self._connection is not None:
            self._connection.close(CloseCode.SERVER_DRAINING)

    # ── Driver ────────────────────────────────────────────────────────────

    def write(self, frame: bytes) -> None:
        if len(frame) <= _COPY_ABOVE_BYTES:
            self._send(_TEXT, frame)
        else:
            buffer = bytearray(_HEADER_ROOM)
            buffer += frame
            self._transport.send_reuse_external_bytearray(WSMsgType.TEXT, buffer, _HEADER_ROOM)

    def write_run(self, run: FrameRun) -> None:
        # 绕过 picows：它一帧一次 send。传输里有积压时它也写到这里，次序不会乱
        self._transport.underlying_transport.write(run.wire)

    def close(self, code: int, reason: str) -> None:
        echo: str | bytes = reason
        if self._echo is not None:
            code, echo = int.from_bytes(self._echo[:2], "big"), self._echo[2:]
        if code:  # 运行时收下任何整数，存根说只能是枚举
            self._transport.send_close(code, echo)  # type: ignore[arg-type]
        else:  # 对方没有给码：也不给
            self._send(WSMsgType.CLOSE, b"")

    def abort(self) -> None:
        self._transport.disconnect(graceful=False)


_READ_BUFFER_BYTES: Final = 1024


class _PicowsLog(logging.LoggerAdapter[logging.Logger]):
    """picows 的日志出口：不是 ``Logger``，它就不会为每个 socket 造一个子 logger。

    它把对方的协议错误记为 ERROR；那是客户端的事，谁都能制造，降为 DEBUG。
    """

    def info(self, msg: object, *args: object, **kwargs: Any) -> None:
        """每个连接两行，不要。"""

    def error(self, msg: object, *args: object, **kwargs: Any) -> None:
        self.debug(msg, *args, **kwargs)


_log: Final = _PicowsLog(logging.getLogger("meeting_push.picows"), {})


class _Accepted(WSUpgradeResponse):
    """101，大家共用：picows 填上 ``Sec-WebSocket-Accept`` 就要字节，每条连接各造一份要 10 µs。"""

    def __init__(self, subprotocol: str | None = None) -> None:
        self.status = HTTPStatus.SWITCHING_PROTOCOLS
        self.headers = cast(Any, {})
        more = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
        self.body = (
            "HTTP/1.1 101 Switching Protocols\r\n"
            f"{more}Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
        ).encode()

    def to_bytes(self) -> bytearray:
        assert self.body is not None, "made above"
        return bytearray(
            b"%b%b\r\n\r\n" % (self.body, self.headers["Sec-WebSocket-Accept"].encode())
        )


_ACCEPTED: Final = {name: _Accepted(name) for name in (None, SUBPROTOCOL)}


class _Unasked:
    """picows 看见的传输：它向套接字问的、设的八样，或早已如此，或没有人要，而 uvloop 每样造一个
    ``socket``（约 3 µs）。其余原样；热的几个方法 picows 自己拿着。"""

    __slots__ = ("_transport",)

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def get_extra_info(self, name: str) -> object:
        return self if name == "socket" else None

    def fileno(self) -> int:
        sock: socket.socket = self._transport.get_extra_info("socket")
        return sock.fileno()

    def setsockopt(self, *_option: int) -> None:
        """TCP_NODELAY：asyncio 与 uvloop 都已设了。"""

    def getsockopt(self, *_option: int) -> int:
        return 0  # 只为了一行不要的日志

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Picows(WSProtocol):  # type: ignore[misc]  # 存根里没有它
    def connection_made(self, transport: asyncio.Transport) -> None:
        secure = transport.get_extra_info("ssl_object") is not None
        super().connection_made(transport if secure else _Unasked(transport))


def _picows(
    manager: ConnectionManager, largest_read_bytes: int, siblings: set[Any], handshake: Handshake
) -> Any:
    accepted = WSUpgradeResponseWithListener(
        _ACCEPTED[handshake.accepted_subprotocol], NativeSocket(manager, handshake, siblings)
    )
    return _Picows(
        None,  # host_port
        None,  # ws_path
        False,  # is_client_side
        lambda _request: accepted,
        _log,
        True,  # disconnect_on_exception
        None,  # websocket_handshake_timeout：门厅有自己的，它的会留下没人取的异常
        False,  # enable_auto_ping
        10,
        10,
        WSAutoPingStrategy.PING_WHEN_IDLE,
        False,  # enable_auto_pong
        largest_read_bytes,
        None,  # extra_headers
        _READ_BUFFER_BYTES,
    )


class NativeEdge:
    """见 ``native_edge``。"""

    #: 以它们开头而合规矩的请求，HTTP 一侧读一遍就交给 ``Front.take``。
    direct: Final = (f"GET {PATH_PREFIX}".encode(), f"GET {STREAM_PREFIX}".encode())

    def __init__(self, manager: ConnectionManager, cors: Cors) -> None:
        self._manager = manager
        self._cors = cors
        self._streams: EventDoor | None = None
        self._largest_read_bytes = manager.limits.largest_read_bytes
        self._deadlines = Deadlines(manager.limits.handshake_timeout_s, Front.too_slow)

    def __call__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> Front:
        def fallback() -> asyncio.Protocol:
            return BoundedWebSocket(config, server_state, app_state, _loop)

        siblings = server_state.connections
        upgraded = partial(_picows, self._manager, self._largest_read_bytes, siblings)
        if self._streams is None:
            self._streams = EventDoor(self._manager, siblings, self._cors)
        return Front(self._manager, self._deadlines, fallback, upgraded, self._streams)


def native_edge(manager: ConnectionManager, cors: Cors | None = None) -> NativeEdge:
    """给 uvicorn 的 ``Config(ws=…)``：用户连接走 picows，其它 WebSocket 走 uvicorn 自己的。"""
    return NativeEdge(manager, cors or Cors())


async def serve_native(
    manager: ConnectionManager,
    *,
    sock: socket.socket,
    ops: OpsEndpoint,
    doorway: Doorway,
    ssl: Any = None,
) -> Listener:
    """在已绑定的 ``sock`` 上直接服务用户连接；其余的 GET（探针、指标）由 ``ops`` 回答。"""
    timeout_s = manager.limits.handshake_timeout_s
    siblings = set[Any]()
    upgraded = partial(_picows, manager, manager.limits.largest_read_bytes, siblings)
    streams = EventDoor(manager, siblings, doorway.cors)
    deadlines = Deadlines(timeout_s, Front.too_slow)
    answering = partial(OpsHttp, ops, timeout_s, doorway)
    return Listener(
        sock,
        partial(BareFront, manager, deadlines, answering, upgraded, streams, doorway),
        doorway.note_left,
        ssl,
    )
