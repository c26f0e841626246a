"""8.1：文本是 UTF-8，在哪个字段里、第几片都要是；坏了不等说完。"""

from __future__ import annotations

import pytest

from .doors import Door
from .wire import (
    BINARY,
    CONTINUATION,
    TEXT,
    fragments,
    frame,
    heartbeat,
    next_serial,
    text,
)

#: Autobahn 6.2、6.5–6.9、6.22、6.23 的那几类：每种长度的首尾，非字符，BOM。
VALID = (
    *("κόσμε", "\u0080", "\u07ff", "\u0800", "\uffff", "\ud7ff", "\ue000", "\ufffd", "\ufeff"),
    *("\U00010000", "\U0010ffff", "\ufffe", "\U0001fffe", "\U0010fffe", "漢字かな한글🙂"),
)
#: 6.3、6.10–6.21：孤立的后继、不完整、过长的写法、代理、超过 10FFFF、从不出现的字节。
INVALID = (
    *(b"\x80", b"\xbf", b"\x80\xbf\x80", b"\xc2", b"\xe4\xbd", b"\xf0\x9f\x99", b"\xc0\xaf"),
    *(b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf"),
    *(b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\x80\xed\xb0\x80", b"\xf4\x90\x80\x80"),
    *(b"\xf5\x80\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xfe", b"\xff"),
)
HEAD, TAIL = b'{"type":"heartbeat","timestamp":1,"pad":"', b'"}'


@pytest.mark.parametrize("value", VALID, ids=ascii)
def test_valid_text_is_taken(door: Door, value: str) -> None:
    serial = next_serial()
    with door.open() as line:
        line.send(text(heartbeat(serial, pad=value)))
        line.answered(serial)


@pytest.mark.parametrize("value", VALID[:4] + VALID[-1:], ids=ascii)
def test_a_character_may_be_cut_by_fragments(door: Door, value: str) -> None:
    serial = next_serial()
    whole = heartbeat(serial, pad=value)
    with door.open() as line:
        line.send(*fragments(TEXT, [whole[i : i + 1] for i in range(len(whole))]))
        line.answered(serial)


@pytest.mark.parametrize("value", INVALID, ids=repr)
def test_c9_invalid_text_in_an_ignored_field_is_1007(door: Door, value: bytes) -> None:
    with door.open() as line:
        line.send(text(HEAD + value + TAIL))
        assert line.closed() == 1007


@pytest.mark.parametrize("kind", ["no_json", "unknown_type", "too_large", "at_the_very_end"])
def test_c9_invalid_text_is_1007_whatever_else_is_wrong(door: Door, kind: str) -> None:
    payload = {
        "no_json": b"\xff",
        "unknown_type": b'{"type":"dance","x":"\xff"}',
        "too_large": HEAD + b"x" * 65_536 + b"\xff" + TAIL,
        "at_the_very_end": b'{"type":"heartbeat","timestamp":1}\xe4\xbd',
    }[kind]
    with door.open() as line:
        line.send(text(payload))
        assert line.closed() == 1007


@pytest.mark.parametrize("value", [b"\xff", b"\xf4\x90", b"\xed\xa0\x80", b"\xc0"], ids=repr)
def test_invalid_text_in_a_fragment_fails_before_the_rest_has_come(
    door: Door, value: bytes
) -> None:
    with door.open() as line:
        line.send(frame(TEXT, HEAD, fin=False), frame(CONTINUATION, value, fin=False))
        assert line.closed() == 1007


def test_a_character_that_never_ends_is_1007(door: Door) -> None:
    with door.open() as line:
        line.send(*fragments(TEXT, [HEAD, b"\xe4\xbd", TAIL]))
        assert line.closed() == 1007
    with door.open() as line:
        line.send(*fragments(TEXT, [b"{}", b"\xe4\xbd"]))
        assert line.closed() == 1007


def test_binary_is_not_looked_at(door: Door) -> None:
    with door.open() as line:
        line.send(frame(BINARY, b"\xff\xfe"))
        assert line.read_json("error")["code"] == "binary_not_supported"
        line.send(*fragments(BINARY, [b"\xff", b"\xfe"]))
        assert line.read_json("error")["code"] == "binary_not_supported"
        line.alive()
