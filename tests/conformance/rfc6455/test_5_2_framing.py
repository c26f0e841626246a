"""5.1、5.2：帧头的每一位，长度的每一种写法。"""

from __future__ import annotations

import pytest

from .doors import Door
from .wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame, heartbeat, next_serial, text

#: 长度写法的界线，与一帧的上限 64 KB。
SIZES = (125, 126, 127, 128, 65_535, 65_536)


@pytest.mark.parametrize("size", SIZES)
def test_every_way_to_write_the_length_is_read(door: Door, size: int) -> None:
    serial = next_serial()
    with door.open() as line:
        line.send(text(heartbeat(serial, size=size)))
        line.answered(serial)


@pytest.mark.parametrize("key", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\x80\x00\x7f"])
def test_any_masking_key_will_do(door: Door, key: bytes) -> None:
    serial = next_serial()
    with door.open() as line:
        line.send(text(heartbeat(serial), key=key))
        line.answered(serial)


@pytest.mark.parametrize("opcode", [TEXT, BINARY, CONTINUATION, PING, PONG, CLOSE])
def test_an_unmasked_frame_is_1002(door: Door, opcode: int) -> None:
    with door.open() as line:
        line.send(frame(opcode, b"", key=None))
        assert line.closed() == 1002


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", [TEXT, PING, CLOSE])
def test_a_reserved_bit_is_1002(door: Door, opcode: int, rsv: int) -> None:
    with door.open() as line:
        line.send(frame(opcode, b"", rsv=rsv))
        assert line.closed() == 1002


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_a_reserved_opcode_is_1002(door: Door, opcode: int, fin: bool) -> None:
    with door.open() as line:
        line.send(frame(opcode, b"x", fin=fin))
        assert line.closed() == 1002


@pytest.mark.parametrize(
    ("size", "length_bytes"), [(0, 2), (125, 2), (0, 8), (125, 8), (126, 8), (65_535, 8)]
)
def test_a_length_that_is_not_the_shortest_is_1002(
    door: Door, size: int, length_bytes: int
) -> None:
    with door.open() as line:
        line.send(frame(TEXT, b"x" * size, length_bytes=length_bytes))
        assert line.closed() == 1002


@pytest.mark.parametrize("length", [2**63, 2**64 - 1])
def test_the_highest_bit_of_the_length_is_1002(door: Door, length: int) -> None:
    with door.open() as line:
        line.send(frame(TEXT, b"", length=length, length_bytes=8))
        assert line.closed() == 1002


def test_a_frame_may_come_byte_by_byte(door: Door) -> None:
    serial = next_serial()
    with door.open() as line:
        line.drip(text(heartbeat(serial, size=200)))
        line.answered(serial)


def test_frames_in_one_segment_are_answered_in_order(door: Door) -> None:
    serials = [next_serial() for _ in range(10)]
    with door.open() as line:
        line.send(*(text(heartbeat(serial)) for serial in serials))
        for serial in serials:
            line.answered(serial)


def test_an_empty_text_is_a_bad_frame_and_the_connection_stays(door: Door) -> None:
    with door.open() as line:
        line.send(text(b""))
        assert line.read_json("error")["code"] == "invalid_json"
        line.alive()


@pytest.mark.parametrize("payload", [b"", b"\xff\x00", b"x" * 65_536])
def test_binary_is_refused_by_us_not_by_the_protocol(door: Door, payload: bytes) -> None:
    with door.open() as line:
        line.send(frame(BINARY, payload))
        assert line.read_json("error")["code"] == "binary_not_supported"
        line.alive()


def test_nothing_after_a_violation_is_processed(door: Door) -> None:
    """7.1.7：同一段里跟在后面的也不看。"""
    with door.open() as line:
        line.send(frame(3), text(heartbeat(next_serial())))
        while (one := line.read()).opcode == TEXT:
            assert one.json["type"] != "heartbeat_ack"
        assert one.opcode == CLOSE
