"""10.4：自己的上限。到两倍为止还回答，再大就是 1009，不为它留内存。"""

from __future__ import annotations

import pytest

from .doors import Door
from .wire import BINARY, CONTINUATION, TEXT, fragments, frame, text

LARGEST = 65_536  # welcome 里的 max_frame_bytes


def test_a_text_over_the_limit_is_a_bad_frame(door: Door) -> None:
    with door.open() as line:
        line.send(text(b"x" * (LARGEST + 1)))
        assert line.read_json("error")["code"] == "frame_too_large"
        line.alive()


def test_fragments_count_together(door: Door) -> None:
    with door.open() as line:
        line.send(*fragments(TEXT, [b"x" * LARGEST, b"x"]))
        assert line.read_json("error")["code"] == "frame_too_large"
        line.alive()


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("length", [LARGEST * 2 + 1, 2**31, 2**62])
def test_a_length_over_twice_the_limit_is_1009_at_once(
    door: Door, opcode: int, length: int
) -> None:
    with door.open() as line:
        line.send(frame(opcode, b"", length=length, length_bytes=8))
        assert line.closed() == 1009


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_fragments_over_twice_the_limit_are_1009(door: Door, opcode: int) -> None:
    with door.open() as line:
        line.send(frame(opcode, b"x" * LARGEST, fin=False))
        line.send(frame(CONTINUATION, b"x" * LARGEST, fin=False))
        line.send(frame(CONTINUATION, b"x"))
        assert line.closed() == 1009
