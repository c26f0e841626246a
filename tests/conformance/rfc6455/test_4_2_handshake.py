"""4.2：服务器一侧的握手；拒绝的有 HTTP 回答，而且关上。"""

from __future__ import annotations

import pytest

from .doors import ACCEPT, KEY, Answer, Door, assert_ended, read_answer
from .wire import Line

OTHER_KEY = "AQIDBAUGBwgJCgsMDQ4PEA=="


def assert_accepted(answer: Answer) -> None:
    assert answer.status == 101
    assert answer.headers["upgrade"].lower() == "websocket"
    assert answer.headers["connection"].lower() == "upgrade"
    assert answer.headers["sec-websocket-accept"] == ACCEPT


def test_the_answer_to_the_example_of_the_rfc(door: Door) -> None:
    answer = door.ask(door.request())
    assert_accepted(answer)
    assert "sec-websocket-protocol" not in answer.headers
    assert "sec-websocket-extensions" not in answer.headers


@pytest.mark.parametrize(
    "lines",
    [
        ["Connection: keep-alive, Upgrade"],
        ["Connection: Upgrade, keep-alive"],
        ["Connection: keep-alive", "Connection: Upgrade"],
        ["Connection: Upgrade", "Connection: keep-alive"],
        ["connection: UPGRADE"],
        ["CONNECTION:\tupgrade\t"],
    ],
    ids=" | ".join,
)
def test_c9_connection_is_a_list_on_any_number_of_lines(door: Door, lines: list[str]) -> None:
    assert_accepted(door.ask(door.request(*lines, without="Connection")))


@pytest.mark.parametrize("value", ["WebSocket", "WEBSOCKET", "websocket"])
def test_upgrade_is_case_insensitive(door: Door, value: str) -> None:
    assert_accepted(door.ask(door.request(f"upgrade: {value}", without="Upgrade")))


@pytest.mark.parametrize(
    "line",
    [
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        "Sec-WebSocket-Extensions: foo; bar=baz, permessage-deflate",
        "X-Unknown: \xe9\xff",
        "Cookie: " + "c" * 40_000,
    ],
    ids=lambda line: line[:40],
)
def test_what_we_do_not_know_does_not_disturb(door: Door, line: str) -> None:
    answer = door.ask(door.request(line))
    assert_accepted(answer)
    assert "sec-websocket-extensions" not in answer.headers


def test_only_our_subprotocol_is_chosen(door: Door) -> None:
    offered = "Sec-WebSocket-Protocol: chat, meeting-push.v1"
    assert door.ask(door.request(offered)).headers["sec-websocket-protocol"] == "meeting-push.v1"
    foreign = door.ask(door.request("Sec-WebSocket-Protocol: chat, superchat"))
    assert "sec-websocket-protocol" not in foreign.headers


def test_c9_a_large_head_is_read(door: Door) -> None:
    """到 64 KB 为止；多到几行都行。"""
    lines = [f"X-Filler-{number}: {'x' * 4_000}" for number in range(12)]
    assert_accepted(door.ask(door.request(*lines)))


def test_the_head_may_come_byte_by_byte(door: Door) -> None:
    with door.dial() as one:
        Line(one).drip(door.request())
        assert_accepted(read_answer(one))


@pytest.mark.parametrize("version", ["8", "7", "0", "12", "14", "013", "13, 8", "", "x"])
def test_c9_another_version_is_426_and_told_which(door: Door, version: str) -> None:
    line = f"Sec-WebSocket-Version: {version}"
    answer = door.ask(door.request(line, without="Sec-WebSocket-Version"))
    assert (answer.status, answer.headers["sec-websocket-version"]) == (426, "13")
    assert answer.headers["upgrade"].lower() == "websocket"


#: (多出的行, 去掉的行)，各缺或多 4.2.1 的一样。
REFUSED = {
    "no key": ([], "Sec-WebSocket-Key"),
    "two keys": ([f"Sec-WebSocket-Key: {OTHER_KEY}"], ""),
    "the same key twice": ([f"Sec-WebSocket-Key: {KEY}"], ""),
    "an empty key": (["Sec-WebSocket-Key:"], "Sec-WebSocket-Key"),
    "a key of 15 bytes": (["Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4P"], "Sec-WebSocket-Key"),
    "a key of 17 bytes": (["Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEBE="], "Sec-WebSocket-Key"),
    "a key that is no base64": (["Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!=="], "Sec-WebSocket-Key"),
    "no version": ([], "Sec-WebSocket-Version"),
    "two versions": (["Sec-WebSocket-Version: 13"], ""),
    "no host": ([], "Host"),
    "two hosts": (["Host: elsewhere.example"], ""),
    "an empty host": (["Host:"], "Host"),
    "a body": (["Content-Length: 5"], ""),
    "a chunked body": (["Transfer-Encoding: chunked"], ""),
    "a control character": (["X-Bad: a\x00b"], ""),
    "a name with a space": (["X Bad: x"], ""),
    "a space before the colon": (["X-Bad : x"], ""),
    "a line without a colon": (["nonsense"], ""),
    "an empty name": ([":X-Bad: x"], ""),
}  # fmt: skip


@pytest.mark.parametrize("wrong", REFUSED)
def test_c9_a_wrong_request_is_refused(door: Door, wrong: str) -> None:
    lines, without = REFUSED[wrong]
    assert door.ask(door.request(*lines, without=without)).status in (400, 426)


@pytest.mark.parametrize(
    "start", ["GET {} HTTP/1.0", "GET {} HTTP/2.0", "POST {} HTTP/1.1", "GET {}"]
)
def test_c9_only_a_get_of_http_1_1_is_upgraded(door: Door, start: str) -> None:
    assert 400 <= door.ask(door.request(start=start.format(door.path))).status < 600


@pytest.mark.parametrize(
    ("lines", "without"),
    [
        ([], "Upgrade"),
        (["Upgrade: h2c"], "Upgrade"),
        ([], "Connection"),
        (["Connection: keep-alive"], "Connection"),
    ],
)
def test_what_is_no_upgrade_is_not_upgraded(door: Door, lines: list[str], without: str) -> None:
    with door.dial() as one:
        one.sendall(door.request("Connection: close", *lines, without=without))
        assert 400 <= read_answer(one).status < 500
        assert_ended(one)


def test_c9_a_head_over_the_limit_is_answered(door: Door) -> None:
    lines = [f"X-Filler-{number}: {'x' * 7_000}" for number in range(12)]
    assert door.ask(door.request(*lines)).status == 431


@pytest.mark.parametrize(("headers", "status"), [(120, 101), (200, 431)])
def test_c9_the_number_of_headers_is_limited(door: Door, headers: int, status: int) -> None:
    lines = [f"X-{number}: x" for number in range(headers)]
    assert door.ask(door.request(*lines)).status == status


@pytest.mark.parametrize("path", ["/ws/nowhere", "/ws/user/0/messages", "/ws/meeting/short"])
def test_c9_a_wrong_path_is_404(door: Door, path: str) -> None:
    assert door.ask(door.request(path=path)).status == 404


def test_a_foreign_origin_is_403(door: Door) -> None:
    assert door.ask(door.request("Origin: https://evil.example")).status == 403


def test_c9_the_path_may_be_written_with_percent(door: Door) -> None:
    """RFC 3986 6.2.2：``%73`` 就是 ``s``；也走同一扇门。"""
    plain = door.ask(door.request())
    odd = door.ask(door.request(path=door.path.replace("/ws/", "/w%73/")))
    assert (odd.status, odd.headers.keys()) == (101, plain.headers.keys())


def test_the_target_may_be_absolute(door: Door) -> None:
    """RFC 9112 3.2.2：服务器必须收下。"""
    assert_accepted(door.ask(door.request(path=f"http://127.0.0.1:{door.port}{door.path}")))
