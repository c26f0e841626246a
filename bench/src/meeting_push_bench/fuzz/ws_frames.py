"""WebSocket 帧的字节（RFC 6455）：合格的，与长度撒谎、不加掩码、RSV、坏分片的。"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from random import Random
from typing import Final

from .json_frames import heartbeat, json_text

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
OPCODES: Final = (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)
RESERVED_OPCODES: Final = (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
_FIN: Final = 0x80
_MASKED: Final = 0x80
INVALID_UTF8: Final = (
    *(b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe4\xbd", b"\x80"),
    b'{"type":"\xff"}',
)
CLOSE_PAYLOADS: Final = (
    *(b"", b"\x03", b"\x03\xe8", b"\x03\xe8bye", b"\x03\xe8\xff\xfe", b"\x00\x00", b"\x03\xed"),
    *(b"\xff\xff", b"\x0f\xa0x", b"\x03\xe8" + b"r" * 123, b"\x03\xee", b"\x13\x88"),
)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\x00\x00\x00\x00",
    claimed: int | None = None,
    length_bytes: int | None = None,
) -> bytes:
    """一帧。``mask`` 为 None 则不加掩码；``claimed`` 是写在头里的长度；``length_bytes``
    强行用 0、2、8 字节的长度写法（可能不是最短的）。"""
    first = (_FIN if fin else 0) | (rsv << 4) | opcode
    flag = 0 if mask is None else _MASKED
    length = len(payload) if claimed is None else claimed
    size = length_bytes if length_bytes is not None else _shortest(length)
    head = bytes([first])
    if size == 0:
        head += bytes([flag | min(length, 125)])
    elif size == 2:
        head += struct.pack("!BH", flag | 126, length & 0xFFFF)
    else:
        head += struct.pack("!BQ", flag | 127, length & 0xFFFF_FFFF_FFFF_FFFF)
    return head + (payload if mask is None else mask + masked(payload, mask))


def _shortest(length: int) -> int:
    return 0 if length < 126 else 2 if length < 65_536 else 8


def masked(payload: bytes, mask: bytes) -> bytes:
    if mask == b"\x00\x00\x00\x00" or not payload:
        return payload
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return mixed.to_bytes(len(payload), "big")


def text(payload: bytes, random: Random) -> bytes:
    """合格的一帧文本。"""
    return frame(TEXT, payload, mask=random.randbytes(4))


def any_frames(random: Random) -> bytes:
    """一两帧，多半不合格。"""
    return b"".join(random.choice(_MAKERS)(random))


def _odd(random: Random) -> Iterator[bytes]:
    """每一处都可能不对。"""
    yield frame(
        random.choice((*OPCODES, *OPCODES, *RESERVED_OPCODES)),
        _payload(random),
        fin=random.random() < 0.8,
        rsv=random.choice((0, 0, 0, 1, 2, 4, 7)),
        mask=random.choice((random.randbytes(4), random.randbytes(4), None)),
    )


def _lying(random: Random) -> Iterator[bytes]:
    """长度与内容不符，或写法不是最短。"""
    payload = _payload(random)
    claimed = random.choice(
        (0, 1, 125, 126, 65_536, 131_073, 2**31, 2**32, 2**62, 2**63, 2**64 - 1)
    )
    yield frame(
        random.choice(OPCODES),
        payload,
        claimed=claimed,
        length_bytes=random.choice((None, 0, 2, 8)),
    )


def _padded(random: Random) -> Iterator[bytes]:
    """长度诚实，但用了过长的写法。"""
    yield frame(TEXT, heartbeat(random), length_bytes=random.choice((2, 8)))


def _fragments(random: Random) -> Iterator[bytes]:
    """分片：有头无尾、没头有尾、中间插控制帧或又一个开头，或成百上千片。"""
    payload = json_text(random)[:60_000]
    count = random.choice((2, 3, 10, 1000))
    step = max(1, len(payload) // count)
    parts = [payload[i : i + step] for i in range(0, len(payload), step)] or [b""]
    for index, part in enumerate(parts):
        yield frame(
            random.choice((TEXT, BINARY)) if index == 0 else CONTINUATION,
            part,
            fin=index == len(parts) - 1 and random.random() < 0.8,
            mask=random.randbytes(4),
        )
        if random.random() < 2 / len(parts):
            yield frame(random.choice(OPCODES), b"in between", fin=random.random() < 0.7)


def _control(random: Random) -> Iterator[bytes]:
    """过长的、分片的控制帧，以及一阵 ping。"""
    opcode = random.choice((PING, PONG, CLOSE))
    if opcode == CLOSE:
        yield frame(CLOSE, random.choice(CLOSE_PAYLOADS), mask=random.randbytes(4))
        return
    for _ in range(random.choice((1, 1, 3, 200))):
        size = random.choice((0, 1, 125, 126, 1000))
        yield frame(opcode, b"p" * size, fin=random.random() < 0.95, mask=random.randbytes(4))


def _not_utf8(random: Random) -> Iterator[bytes]:
    yield frame(random.choice((TEXT, TEXT, CLOSE)), random.choice(INVALID_UTF8))


def _noise(random: Random) -> Iterator[bytes]:
    yield random.randbytes(random.choice((1, 2, 3, 14, 100, 5000)))


def _payload(random: Random) -> bytes:
    return random.choice(
        (b"", heartbeat(random), json_text(random), random.randbytes(random.randrange(300)))
    )


_MAKERS: Final = (_odd, _odd, _lying, _padded, _fragments, _control, _not_utf8, _noise)
