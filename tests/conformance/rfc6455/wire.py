"""帧的字节（RFC 6455 5.2）与一条裸的连接。"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, Self

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
TIMEOUT_S: Final = 3
_KEY: Final = bytes.fromhex("a15bc37d")
_serial: Final = count(1)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = _KEY,
    length: int | None = None,
    length_bytes: int | None = None,
) -> bytes:
    """一帧。``key`` 为 None 不加掩码；``length`` 是头里写的；``length_bytes`` 强行用几字节写它。"""
    said = len(payload) if length is None else length
    width = _shortest(said) if length_bytes is None else length_bytes
    masked = 0 if key is None else 0x80
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if width == 0:
        head += bytes([masked | said])
    else:
        head += bytes([masked | (126 if width == 2 else 127)]) + said.to_bytes(width, "big")
    return head + (payload if key is None else key + _mask(payload, key))


def _shortest(length: int) -> int:
    return 0 if length < 126 else 2 if length < 2**16 else 8


def _mask(payload: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


def text(payload: str | bytes, **options: Any) -> bytes:
    return frame(TEXT, payload.encode() if isinstance(payload, str) else payload, **options)


def close(code: int | None = None, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def fragments(opcode: int, parts: Sequence[bytes]) -> Iterator[bytes]:
    """一条分成几片的消息。"""
    for index, part in enumerate(parts):
        kind = CONTINUATION if index else opcode
        yield frame(kind, part, fin=index == len(parts) - 1)


def heartbeat(serial: int, *, size: int | None = None, pad: str = "") -> bytes:
    """一帧心跳的文本；``size`` 是恰好多少字节。"""
    body = json.dumps({"type": "heartbeat", "timestamp": serial, "pad": pad}, ensure_ascii=False)
    missing = 0 if size is None else size - len(body.encode())
    assert missing >= 0
    return body.replace('"pad": "', '"pad": "' + "x" * missing).encode()


def next_serial() -> int:
    return next(_serial)


@dataclass(frozen=True)
class Frame:
    opcode: int
    payload: bytes

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.payload))


class Line:
    """升级之后的一条连接；读到的每一帧都查服务器自己守不守规矩。"""

    def __init__(self, one: socket.socket, received: bytes = b"") -> None:
        self._socket = one
        self._received = received
        one.settimeout(TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, *frames: bytes) -> None:
        """一次写出去，多半在同一个 TCP 段里。"""
        self._socket.sendall(b"".join(frames))

    def drip(self, data: bytes) -> None:
        """一个字节一个字节地。"""
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            self._socket.sendall(bytes([byte]))

    def read(self) -> Frame:
        first, second = self._take(2)
        assert first & 0x70 == 0, "the server set a reserved bit"
        assert first & 0x80, "the server fragmented a frame"
        assert second & 0x80 == 0, "the server masked a frame"
        length = second
        if second >= 126:
            length = int.from_bytes(self._take(2 if second == 126 else 8), "big")
            assert _shortest(length) == (2 if second == 126 else 8), "not the shortest length"
        return Frame(first & 0x0F, self._take(length))

    def read_until(self, opcode: int) -> Frame:
        """途中的文本帧不看。"""
        while (one := self.read()).opcode != opcode:
            assert one.opcode == TEXT, f"unexpected {one}"
        return one

    def read_json(self, kind: str) -> dict[str, Any]:
        """第一帧类型为 ``kind`` 的。"""
        while (answer := self.read_until(TEXT).json)["type"] != kind:
            pass
        return answer

    def answered(self, serial: int) -> None:
        """下一个心跳的回答就是它的。"""
        assert self.read_json("heartbeat_ack")["timestamp"] == serial

    def alive(self) -> None:
        """还能一问一答。"""
        serial = next_serial()
        self.send(text(heartbeat(serial)))
        self.answered(serial)

    def closed(self) -> int | None:
        """等服务器的关闭帧，回它，然后 TCP 也关了；返回码，None 是没有码。"""
        payload = self.read_until(CLOSE).payload
        self._hang_up(payload)
        payload[2:].decode()
        return int.from_bytes(payload[:2], "big") if payload else None

    def _hang_up(self, payload: bytes) -> None:
        try:
            self._socket.sendall(frame(CLOSE, payload))
            assert self._received + self._socket.recv(1) == b"", "something after the close frame"
        except ConnectionError:
            pass

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            data = self._socket.recv(65_536)
            assert data, f"the connection ended in a frame: {self._received[:64]!r}"
            self._received += data
        taken, self._received = self._received[:size], self._received[size:]
        return taken
