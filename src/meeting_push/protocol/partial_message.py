"""还没收完的一条消息：有界，文本边收边验 UTF-8（RFC 6455 8.1）。"""

from __future__ import annotations

import codecs
from typing import Final

from .codes import CloseCode

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
