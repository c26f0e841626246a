"""5.5：ping 与 pong。"""

from __future__ import annotations

import pytest

from .doors import Door
from .wire import CLOSE, PING, PONG, close, frame, heartbeat, next_serial, text


@pytest.mark.parametrize(
    "payload",
    [b"", b"hello", b"\x00\xff\xfe\xfd", b"p" * 125],
    ids=["empty", "text", "bytes", "125"],
)
def test_a_pong_brings_back_the_payload(door: Door, payload: bytes) -> None:
    with door.open() as line:
        line.send(frame(PING, payload))
        assert line.read_until(PONG).payload == payload


def test_many_pings_are_answered_in_order(door: Door) -> None:
    payloads = [b"ping %d" % number for number in range(10)]
    with door.open() as line:
        line.send(*(frame(PING, payload) for payload in payloads))
        assert [line.read_until(PONG).payload for _ in payloads] == payloads


def test_a_ping_may_come_byte_by_byte(door: Door) -> None:
    with door.open() as line:
        line.drip(frame(PING, b"slowly"))
        assert line.read_until(PONG).payload == b"slowly"


@pytest.mark.parametrize("payload", [b"", b"nobody asked"])
def test_a_pong_nobody_asked_for_is_ignored(door: Door, payload: bytes) -> None:
    serial = next_serial()
    with door.open() as line:
        line.send(frame(PONG, payload), text(heartbeat(serial)))
        line.answered(serial)


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_a_control_frame_over_125_bytes_is_1002(door: Door, opcode: int) -> None:
    with door.open() as line:
        line.send(frame(opcode, b"\x03\xe8" + b"x" * 124))
        assert line.closed() == 1002


def test_a_ping_after_the_close_is_not_answered(door: Door) -> None:
    with door.open() as line:
        line.send(close(1000), frame(PING, b"too late"))
        assert line.closed() == 1000
