"""5.4：分片的消息，中间插着控制帧的，次序不对的。"""

from __future__ import annotations

import pytest

from .doors import Door
from .wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close,
    fragments,
    frame,
    heartbeat,
    next_serial,
    text,
)


def cut(payload: bytes, count: int) -> list[bytes]:
    """``count`` 片；不够分的是空的。"""
    size = max(1, len(payload) // count)
    parts = [payload[size * i : size * (i + 1)] for i in range(count - 1)]
    return [*parts, payload[size * (count - 1) :]]


@pytest.mark.parametrize("count", [2, 3, 10, 50])
@pytest.mark.parametrize("together", [True, False])
def test_fragments_are_one_message(door: Door, count: int, together: bool) -> None:
    serial = next_serial()
    frames = list(fragments(TEXT, cut(heartbeat(serial), count)))
    with door.open() as line:
        if together:
            line.send(*frames)
        else:
            for one in frames:
                line.send(one)
        line.answered(serial)


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_fragment_may_be_empty(door: Door, where: str) -> None:
    serial = next_serial()
    whole = heartbeat(serial)
    parts = {
        "first": [b"", whole],
        "middle": [whole[:9], b"", whole[9:]],
        "last": [whole, b""],
    }[where]
    with door.open() as line:
        line.send(*fragments(TEXT, parts))
        line.answered(serial)


def test_fragments_may_come_byte_by_byte(door: Door) -> None:
    serial = next_serial()
    with door.open() as line:
        line.drip(b"".join(fragments(TEXT, cut(heartbeat(serial), 5))))
        line.answered(serial)


def test_control_frames_come_between_and_are_answered_at_once(door: Door) -> None:
    serial = next_serial()
    first, second, third = fragments(TEXT, cut(heartbeat(serial), 3))
    with door.open() as line:
        line.send(first, frame(PING, b"one"))
        assert line.read_until(PONG).payload == b"one"
        line.send(second, frame(PONG, b"nobody asked"), frame(PING, b"two"))
        assert line.read_until(PONG).payload == b"two"
        line.send(third)
        line.answered(serial)


def test_a_close_between_fragments_is_answered(door: Door) -> None:
    with door.open() as line:
        line.send(frame(TEXT, b'{"type":', fin=False), close(1000))
        assert line.closed() in (1000, 1002)  # 消息没有说完：两种都合规矩


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_a_fragmented_control_frame_is_1002(door: Door, opcode: int) -> None:
    with door.open() as line:
        line.send(frame(opcode, b"", fin=False))
        assert line.closed() == 1002


@pytest.mark.parametrize("fin", [True, False])
def test_a_continuation_of_nothing_is_1002(door: Door, fin: bool) -> None:
    with door.open() as line:
        line.send(frame(CONTINUATION, b"x", fin=fin))
        assert line.closed() == 1002


def test_a_continuation_after_the_last_fragment_is_1002(door: Door) -> None:
    serial = next_serial()
    with door.open() as line:
        line.send(*fragments(TEXT, cut(heartbeat(serial), 2)))
        line.answered(serial)
        line.send(frame(CONTINUATION, b"x"))
        assert line.closed() == 1002


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_inside_a_message_is_1002(door: Door, opcode: int, fin: bool) -> None:
    with door.open() as line:
        line.send(frame(TEXT, b"{", fin=False), frame(opcode, b"x", fin=fin))
        assert line.closed() == 1002


def test_fragmented_binary_is_refused_by_us(door: Door) -> None:
    with door.open() as line:
        line.send(*fragments(BINARY, [b"\xff", b"\xfe", b"\x00"]))
        assert line.read_json("error")["code"] == "binary_not_supported"
        line.send(text(b"nonsense"))
        assert line.read_json("error")["code"] == "invalid_json"
