"""升级请求合不合规矩（C9）；四扇门从外面的样子在 tests/conformance/rfc6455。"""

from __future__ import annotations

import pytest
from httptools import HttpParserError, HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st

from meeting_push.http.upgrade_request import (
    MAX_HEAD_BYTES,
    UpgradeRequest,
    asks_for_websocket,
    by_name,
    complete_request,
    origin_form,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
GOOD = (
    "Host: push.example",
    "Upgrade: websocket",
    "Connection: keep-alive, Upgrade",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Version: 13",
)


def head(*lines: str, start: str = "GET /ws/user/1/messages?x=%41 HTTP/1.1") -> bytes:
    return "\r\n".join([start, *lines, "", ""]).encode("latin-1")


def parsed(*lines: str, **options: str) -> UpgradeRequest:
    request = UpgradeRequest.parse(head(*lines, **options))
    assert request is not None
    return request


def status(*lines: str, **options: str) -> int | None:
    refusal = parsed(*lines, **options).refusal()
    return None if refusal is None else refusal.status


def test_a_good_request_is_not_refused() -> None:
    request = parsed(*GOOD)
    assert request.refusal() is None
    assert (request.path, request.query) == ("/ws/user/1/messages", "x=%41")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/w%73/user/1/messages", "/ws/user/1/messages"),
        ("/ws/user/%31/messages", "/ws/user/1/messages"),
        ("http://push.example/ws/user/1/messages", "/ws/user/1/messages"),
        ("*", "*"),
        ("http://[", "http://["),
        ("/%ff", "/\ufffd"),
    ],
)
def test_c9_the_path_is_the_decoded_one(target: str, path: str) -> None:
    assert parsed(*GOOD, start=f"GET {target} HTTP/1.1").path == path


def test_the_query_of_an_absolute_target_stays() -> None:
    assert origin_form("http://push.example/a?b=c") == "/a?b=c"


@pytest.mark.parametrize("version", ["8", "7", "14", "013", "13, 8", ""])
def test_c9_another_version_is_426_and_names_ours(version: str) -> None:
    refusal = parsed(*GOOD[:-1], f"Sec-WebSocket-Version: {version}").refusal()
    assert refusal is not None
    assert refusal.status == 426
    assert b"\r\nsec-websocket-version: 13\r\n" in refusal.answer()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (GOOD[1:], 400),
        ((*GOOD, "Host: other.example"), 400),
        (("Host: a b", *GOOD[1:]), 400),
        ((*GOOD, f"Sec-WebSocket-Key: {KEY}"), 400),
        ((*GOOD[:3], "Sec-WebSocket-Key: short", GOOD[4]), 400),
        ((*GOOD, "Sec-WebSocket-Version: 13"), 400),
        ((*GOOD, "Content-Length: 1"), 400),
        ((*GOOD, "Content-Length: 0"), None),
        ((*GOOD, "Transfer-Encoding: chunked"), 400),
        ((GOOD[0], *GOOD[2:]), 426),
        ((*GOOD[:2], *GOOD[3:]), 426),
    ],
)
def test_c9_each_rule_of_4_2_1(lines: tuple[str, ...], expected: int | None) -> None:
    assert status(*lines) == expected


@pytest.mark.parametrize(
    ("start", "expected"),
    [("GET / HTTP/1.0", 400), ("GET / HTTP/2.0", 505), ("PUT / HTTP/1.1", 405)],
)
def test_c9_only_a_get_of_http_1_1(start: str, expected: int) -> None:
    assert status(*GOOD, start=start) == expected


def test_c9_lists_may_be_on_several_lines() -> None:
    lines = [("connection", "Upgrade"), ("connection", "keep-alive"), ("upgrade", "WebSocket")]
    assert asks_for_websocket(by_name(lines))
    assert not asks_for_websocket({"connection": ["upgraded"], "upgrade": ["websocket"]})


@pytest.mark.parametrize(
    "broken",
    [
        head("X Bad: x"),
        head("X-Bad : x"),
        head(": x"),
        head(*GOOD, ":Transfer-Encoding: chunked"),
        head("nonsense"),
        pytest.param(head("x" * (MAX_HEAD_BYTES - 100)), id="a long line without a colon"),
        head("X-Bad: a\x00b"),
        head("X-Bad: a\rb"),
        head("X-Bad: a\nb"),
        head("X-Folded: a", " b"),
        head(start="GET /"),
        head(start="GET / a HTTP/1.1"),
        head(start="GET /\xff HTTP/1.1"),
        b"\r\n\r\n",
    ],
    ids=repr,
)
def test_what_is_no_http_is_no_request(broken: bytes) -> None:
    assert UpgradeRequest.parse(broken) is None


@pytest.mark.parametrize("line", [":x: y", "::x: y", ": y", "x : y", "x y", " x: y"])
def test_both_edges_want_a_name_before_the_colon(line: str) -> None:
    """RFC 9112 5：名字是非空的 token，紧跟冒号；ASGI 一侧的解析器（httptools）也不收。"""
    assert UpgradeRequest.parse(head(*GOOD, line)) is None
    with pytest.raises(HttpParserError):
        HttpRequestParser(object()).feed_data(head(*GOOD, line))


def test_values_keep_their_bytes() -> None:
    [value] = parsed(*GOOD, "X-Odd: \t caf\xe9 \t").values("x-odd")
    assert value.encode("ascii", "surrogateescape") == b"caf\xe9"


def test_sec_2_no_token_is_shown() -> None:
    assert "secret" not in repr(parsed(*GOOD, "Authorization: Bearer secret"))


@given(st.binary(max_size=300))
def test_nothing_raises(noise: bytes) -> None:
    request = UpgradeRequest.parse(noise + b"\r\n\r\n")
    if request is not None:
        request.refusal()


def test_a_complete_request_is_read_with_what_follows_it() -> None:
    request, rest = complete_request(head(*GOOD) + b"frame")
    assert request is not None
    assert rest == b"frame"


@pytest.mark.parametrize(
    "data", [head(*GOOD)[:-1], head(*GOOD[:-1]), head("nonsense"), b"", b"\r\n\r\n"]
)
def test_anything_else_is_left_to_who_can_say_why(data: bytes) -> None:
    assert complete_request(data) == (None, data)
