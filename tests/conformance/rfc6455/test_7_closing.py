"""7.1、7.4：怎样关，码哪些可以、哪些不可以。"""

from __future__ import annotations

import pytest

from .doors import Door
from .wire import CLOSE, TEXT, close, frame, heartbeat, next_serial, text

VALID = (1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4500, 4999)
INVALID = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)


@pytest.mark.parametrize("code", VALID)
def test_c9_a_valid_code_is_echoed(door: Door, code: int) -> None:
    with door.open() as line:
        line.send(close(code, b"bye"))
        assert line.closed() == code


@pytest.mark.parametrize("code", INVALID)
def test_c9_a_code_nobody_may_send_is_1002(door: Door, code: int) -> None:
    with door.open() as line:
        line.send(close(code))
        assert line.closed() == 1002


def test_a_close_without_a_code_is_answered_without_a_code(door: Door) -> None:
    with door.open() as line:
        line.send(close())
        assert line.closed() is None


@pytest.mark.parametrize("byte", [b"\x03", b"\x00", b"\xff"])
def test_c9_a_close_of_one_byte_is_1002(door: Door, byte: bytes) -> None:
    with door.open() as line:
        line.send(frame(CLOSE, byte))
        assert line.closed() == 1002


@pytest.mark.parametrize("reason", [b"r" * 123, "再见".encode(), b""])
def test_a_reason_of_any_valid_text_will_do(door: Door, reason: bytes) -> None:
    with door.open() as line:
        line.send(close(1000, reason))
        assert line.closed() == 1000


@pytest.mark.parametrize("reason", [b"\xff", b"\xe4\xbd", b"ok\xc0\xaf", b"\xed\xa0\x80"])
def test_a_reason_that_is_no_utf8_is_1007(door: Door, reason: bytes) -> None:
    with door.open() as line:
        line.send(close(1000, reason))
        assert line.closed() == 1007


def test_what_came_before_the_close_is_processed(door: Door) -> None:
    serial = next_serial()
    with door.open() as line:
        line.send(text(heartbeat(serial)))
        line.answered(serial)
        line.send(text(heartbeat(serial)), close(1000))
        assert line.closed() == 1000


@pytest.mark.parametrize("late", [text(b"late"), frame(TEXT, b"", rsv=1), close(1000)])
def test_what_comes_after_the_close_is_ignored(door: Door, late: bytes) -> None:
    with door.open() as line:
        line.send(close(1001), late)
        assert line.closed() in (1001, 1002)  # 同一段里的违规，先看见哪个都行


def test_when_we_close_the_peers_echo_ends_the_connection(door: Door) -> None:
    with door.open() as line:
        for _ in range(20):
            line.send(text(b"nonsense"))
        assert line.closed() == 4504


def test_a_client_that_just_hangs_up_is_let_go(door: Door) -> None:
    with door.open() as line:
        line.alive()
    with door.open() as line:
        line.alive()
