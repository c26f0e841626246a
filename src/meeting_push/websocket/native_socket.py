"""picows 的一个 socket：既是它的监听器，也是 ``UserConnection`` 的驱动。"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSProtocolError, WSTransport

from ..protocol.codes import CloseCode
from .connection import UserConnection
from .frame_run import FrameRun
from .handshake import Handshake
from .manager import ConnectionManager

#: picows 对更大的帧用 ``writelines``，头部是指向它内部缓冲的视图：传输里已有积压时，
#: uvloop 留着这个视图而缓冲已被下一帧改写，线上就乱了。所以更大的帧自己拼好再交。
_COPY_ABOVE_BYTES: Final = 8192
_TEXT: Final = WSMsgType.TEXT
_HEADER_ROOM: Final = 14  # ``send_reuse_external_bytearray`` 要求的


class NativeSocket(WSListener):
    """``siblings`` 是 uvicorn 关机时逐个调用 ``shutdown`` 的那个集合。"""

    __slots__ = (
        "_binary",
        "_connection",
        "_fragments",
        "_handshake",
        "_manager",
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
        self._fragments: bytearray | None = None
        self._binary = False
        self._transport: WSTransport
        self._send: Callable[[WSMsgType, bytes], None]

    # ── picows 的回调 ─────────────────────────────────────────────────────

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport, self._send = transport, transport.send
        # 请求里有令牌，头部占 1–2 KB，此后没人再看
        del transport.request.headers, transport.request.path, transport.response.headers
        handshake, self._handshake = self._handshake, None
        assert handshake is not None, "picows connects a listener once"
        self._siblings.add(self)
        self._connection = self._manager.accept(handshake, self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        connection = self._connection
        if connection is None:
            return
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            raise WSProtocolError(WSCloseCode.PROTOCOL_ERROR, "no extension was negotiated")
        kind = frame.msg_type
        if kind is WSMsgType.TEXT and frame.fin and self._fragments is None:
            if frame.payload_size > self._manager.limits.max_frame_bytes:
                connection.receive_too_large()
            else:
                connection.receive(frame.get_payload_as_bytes())
        elif kind is WSMsgType.PING:
            # 灌 ping 而不读的客户端：积压时不回，pong 不能成为无界的缓冲（CON-1）
            if connection.outbox.blocked_since is None:
                transport.send_pong(frame.get_payload_as_bytes())
        elif kind is WSMsgType.CLOSE:
            connection.close(CloseCode.NORMAL)  # 我们先关的则无事发生
            transport.disconnect()
        elif kind is not WSMsgType.PONG:
            self._join(connection, kind, frame)

    def _join(self, connection: UserConnection, kind: WSMsgType, frame: WSFrame) -> None:
        """二进制与分片消息：有界地合并，完整后照一帧处理。"""
        if kind is not WSMsgType.CONTINUATION:
            if self._fragments is not None:
                raise WSProtocolError(WSCloseCode.PROTOCOL_ERROR, "a message inside a message")
            self._fragments, self._binary = bytearray(), kind is WSMsgType.BINARY
        elif self._fragments is None:
            raise WSProtocolError(WSCloseCode.PROTOCOL_ERROR, "nothing to continue")
        if len(self._fragments) + frame.payload_size > self._manager.limits.largest_read_bytes:
            raise WSProtocolError(WSCloseCode.MESSAGE_TOO_BIG, "the message is too big")
        self._fragments += frame.get_payload_as_memoryview()
        if frame.fin:
            message, self._fragments = bytes(self._fragments), None
            if self._binary:
                connection.receive_binary()
            else:
                connection.receive(message)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
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
        # 运行时收下任何整数，存根说只能是枚举
        self._transport.send_close(code, reason)  # type: ignore[arg-type]

    def abort(self) -> None:
        self._transport.disconnect(graceful=False)
