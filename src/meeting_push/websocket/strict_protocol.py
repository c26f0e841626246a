"""websockets 的服务器协议，补上它不查的：最短的长度写法，边收边验的 UTF-8。

握手不归它读：它一行至多 8 KB，读不懂的也不回答；调用者自己读好，交给 ``accept``。
"""

from __future__ import annotations

import codecs
from collections.abc import Generator
from enum import Enum, auto
from typing import Any, Final

from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

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
