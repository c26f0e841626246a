"""``message_body:<id>`` 里存的字节：两个 ASCII 字符的头，然后是尾（见 ``frames.encode_tail``）。

头 = 编码（``j`` 原文、``z`` zstd）+ 优先级数字。GETRANGE 0 1 就能知道优先级，不必取出正文。
"""

from __future__ import annotations

import threading
from typing import Final

import zstandard

from ..errors import MalformedEnvelopeError

HEADER_LENGTH: Final = 2
_PLAIN: Final = b"j"
_ZSTD: Final = b"z"


class _Codec(threading.local):
    """压缩器可复用但不可跨线程共用（嵌入者可能在几个线程里各跑一个事件循环）。"""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=3)
        self.decompressor = zstandard.ZstdDecompressor()


_codec: Final = _Codec()


def encode_body(tail: bytes, priority: int, compress_above: int) -> bytes:
    """``tail`` 超过 ``compress_above`` 字节且压缩后确实更小时才压缩。"""
    if len(tail) > compress_above:
        packed = _codec.compressor.compress(tail)
        if len(packed) < len(tail):
            return b"%b%d%b" % (_ZSTD, priority, packed)
    return b"%b%d%b" % (_PLAIN, priority, tail)


def decode_body(blob: bytes) -> bytes:
    """取出尾。

    :raises MalformedEnvelopeError: 不是 ``encode_body`` 的产物
    """
    header, data = blob[:HEADER_LENGTH], blob[HEADER_LENGTH:]
    codec, priority = header[:1], header[1:]
    if priority.isdigit() and codec == _PLAIN:
        return data
    if priority.isdigit() and codec == _ZSTD:
        try:
            return _codec.decompressor.decompress(data)
        except zstandard.ZstdError:
            raise MalformedEnvelopeError("the stored body does not decompress") from None
    raise MalformedEnvelopeError("the stored body has an unknown header")


def priority_of(header: bytes) -> int | None:
    """头里的优先级；空串（键不存在）或不认识的头则 None。"""
    digit = header[1:HEADER_LENGTH]
    return int(digit) if digit.isdigit() else None
