"""uvicorn 的 WebSocket 协议，补上几处有界（CON-1）与几处 RFC；会议与 asgi edge 的连接都经过它。

websockets 不查的也补上：最短的长度写法，边收边验的 UTF-8。握手不归它读：它一行至多 8 KB，读不懂
的也不回答；我们自己读好，交给 ``accept``。
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Generator
from enum import Enum, auto
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import Protocol
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

from ..http.refusals import BAD_REQUEST
from ..http.upgrade_request import UpgradeRequest

_utf8_decoder: Final = codecs.getincrementaldecoder("utf-8")


class StrictProtocol(ServerProtocol):
    """坏的一律由 ``fail`` 以 1002、1007 关闭，与库自己发现的一样。"""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._text: codecs.IncrementalDecoder | None = None
        self.reader = _FrameReader()
        # 解析的协程起步时握着旧的 reader
        self.parser = self.parse()
        next(self.parser)

    def parse(self) -> Generator[None]:
        """从第一帧读起。"""
        yield from Protocol.parse(self)

    def recv_frame(self, frame: Frame) -> None:
        """:raises UnicodeDecodeError: 文本不是 UTF-8；半个字符可以等下一片"""
        if frame.opcode is Opcode.TEXT:
            self._text = _utf8_decoder()
        if frame.opcode in (Opcode.TEXT, Opcode.CONT) and self._text is not None:
            self._text.decode(bytes(frame.data), frame.fin)
            if frame.fin:
                self._text = None
        super().recv_frame(frame)


class _Part(Enum):
    HEAD = auto()
    LENGTH = auto()
    KEY = auto()
    PAYLOAD = auto()


class _FrameReader(StreamReader):
    """``Frame.parse`` 依次要：头两个字节、（需要时）长度、掩码、内容。"""

    def __init__(self) -> None:
        super().__init__()
        self._next = _Part.HEAD

    def read_exact(self, n: int) -> Generator[None, None, bytearray]:
        """:raises ProtocolError: 长度不是最短的写法，或最高位是 1（RFC 6455 5.2）"""
        data = yield from super().read_exact(n)
        if self._next is _Part.HEAD:
            self._next = _Part.LENGTH if data[1] & 0x7F >= 126 else _Part.KEY
        elif self._next is _Part.LENGTH:
            length = int.from_bytes(data, "big")
            if length < (126 if n == 2 else 2**16) or length >> 63:
                raise ProtocolError("not the shortest payload length")
            self._next = _Part.KEY
        else:
            self._next = _Part.PAYLOAD if self._next is _Part.KEY else _Part.HEAD
        return data


#: 应用放手之后，等对方读完最后几帧（关闭帧在其中）多久。
LINGER_S: Final = 5.0


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """灌 ping 而不读的、关了却不走的，都不能一直占着内存与描述符。"""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._joined = bytearray()
        self._lingering: asyncio.TimerHandle | None = None
        self._lost = False
        self.conn = StrictProtocol(max_size=self.config.ws_max_size, logger=self.logger)

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            self._shake_hands(data)
            return
        self.conn.receive_data(data)
        self.handle_events()  # 违规之前的照办；uvicorn 会连它们一起丢掉
        if self.conn.parser_exc is not None:
            self.handle_parser_exception()

    def _shake_hands(self, head: bytes) -> None:
        """请求头是完整地来的，HTTP 一侧已经问过它合不合规矩。"""
        request = UpgradeRequest.parse(head)
        if request is None:
            self.transport.write(BAD_REQUEST.answer())
            self.transport.close()
            self._linger()
        else:
            headers = Headers([(name, _latin(value)) for name, value in request.headers])
            self.handle_connect(Request(request.target, headers))

    def handle_cont(self, event: Frame) -> None:
        """一片一片地接上：uvicorn 记下每一片，空的也记，一个字节的片要占几十个字节。"""
        self._joined += event.data
        if event.fin:
            self.frames.append(bytes(self._joined))
            self._joined.clear()
            self.send_receive_event_to_app()

    def handle_ping(self) -> None:
        output = self.conn.data_to_send()  # 自动生成的 pong；积压时丢掉，不进无界的写缓冲
        if self.writable.is_set():
            self.transport.write(b"".join(output))

    async def run_asgi(self) -> None:
        try:
            await super().run_asgi()
        finally:
            # uvicorn 只是 close()：对方不读，缓冲就排不空，socket 会永远留着
            self._linger()

    def _linger(self) -> None:
        if not self._lost:
            self._lingering = self.loop.call_later(LINGER_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lost = True
        if self._lingering is not None:
            self._lingering.cancel()
        # 解析的协程与它的 ``conn`` 互指：不拆开，每条连接要等一次长的垃圾回收
        self.conn.parser.close()


def _latin(value: str) -> str:
    """websockets 的头是 ISO-8859-1 的。"""
    return value.encode("ascii", "surrogateescape").decode("latin-1")
