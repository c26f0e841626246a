"""门口：还不知道是谁就来的，花掉的时间、内存与描述符都有限，而且总有一个回答（LESSONS 23）。

都以裸套接字说话，不借助任何会替我们守规矩的库。
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import repeat

import httpx
import pytest

from tests.support.eventually import wait_until
from tests.support.server_process import ServerProcess

from .raw import MB, NOT_CONTENT, accepted, answer_to, dial, pour, read_to_end, rss

LIMITS = {
    "handshake_timeout_s": 1,
    "outbox_max_delay_s": 1,
    "max_http_connections_per_address": 40,
}


@pytest.fixture(scope="module", params=["native", "asgi"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("doors")
    with ServerProcess(directory, settings={"edge": request.param, **LIMITS}) as process:
        yield process


@NOT_CONTENT
def test_a2_what_is_not_content_is_bounded(
    server: ServerProcess, start: bytes, endless: bytes
) -> None:
    """A2：拖尾、块扩展、块长、空行、头、方法——解析器吃得下的每一样都有上限，有回答，会关。"""
    before, began = rss(server), time.monotonic()
    with dial(server) as one:
        sent = pour(one, (start, *repeat(endless, 60 * MB // len(endless))))
        answer = read_to_end(one)
    assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 413", b"HTTP/1.1 431"), answer[:200]
    assert sent < 40 * MB
    assert time.monotonic() - began < 5
    assert rss(server) - before < 20 * MB


@pytest.mark.parametrize(
    "path",
    [
        b"/ws/meeting/01J00000000000000000000000",
        b"/ws/user/1/messages",
        b"/api/v1/messages",
        b"/docs",
        b"/ops",
        b"/nowhere",
    ],
)
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(b"X-Long: " + b"y" * 9_000 + b"\r\n", id="long-line"),
        pytest.param(b"".join(b"X-%d: y\r\n" % n for n in range(140)), id="many-headers"),
        pytest.param(b"Content-Length: 5\r\n", id="body"),
        pytest.param(b"Transfer-Encoding: chunked\r\n", id="chunked"),
        pytest.param(b"X: " + b"y" * 70_000 + b"\r\n", id="huge-head"),
    ],
)
def test_a6_every_upgrade_is_answered(server: ServerProcess, path: bytes, fields: bytes) -> None:
    """A6：哪条路径、越过哪个库的哪个上限，都有一个 HTTP 回答，也都断开。"""
    request = b"GET %s HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" % path
    request += b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    assert answer_to(server, request + fields + b"\r\nhello").startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize(
    "request_line",
    [
        pytest.param(b"GET /ws/meeting/" + b"a" * 9_000 + b" HTTP/1.1", id="long-url"),
        pytest.param(b"POST /ws/meeting/x HTTP/1.1", id="post"),
        pytest.param(b"GET /ws/meeting/x HTTP/1.0", id="http-1.0"),
    ],
)
def test_a6_an_odd_request_line_is_answered(server: ServerProcess, request_line: bytes) -> None:
    """A6：同一种，毛病在请求行里。"""
    request = request_line + b"\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    request += b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    assert answer_to(server, request).startswith(b"HTTP/1.1 4")


def test_a6_an_upgrade_to_something_else_is_an_ordinary_request(server: ServerProcess) -> None:
    """A6：``h2c`` 照 HTTP/1.1 回答；后面的字节不再是请求。"""
    request = b"GET /healthz HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
    assert answer_to(server, request + b"junk").startswith(b"HTTP/1.1 200 ")


def test_a7_answers_nobody_reads_are_cut_off(server: ServerProcess) -> None:
    """A7：管线里六十个请求、一个字节也不读：内存有限，连接到时断开。"""
    before_rss, before = rss(server), accepted(server)
    request = b"GET /openapi.json HTTP/1.1\r\nHost: h\r\n\r\n" * 60
    with ExitStack() as stack:
        for _ in range(30):
            pour(stack.enter_context(dial(server, receive_buffer=4096)), [request])
        wait_until(lambda: accepted(server) <= before, timeout=30)
        assert rss(server) - before_rss < 40 * MB


def test_a7_the_largest_pages_nobody_reads_take_bounded_memory(server: ServerProcess) -> None:
    """A7：六十条连接各要最大的一页收件箱，一个字节也不读。"""
    with httpx.Client(base_url=f"{server.base_url}/api/v1", trust_env=False) as api:
        credentials = {"username": "mallory", "password": "correct horse battery"}
        user_id = api.post("/auth/register", json=credentials).json()["user_id"]
        mallory = api.post("/auth/login", json=credentials).json()["access_token"]
        api.headers["authorization"] = f"Bearer {mallory}"
        one = {"recipient_ids": [user_id], "title": "t", "content": "x" * 64_000}
        for _ in range(4):
            answer = api.post("/messages/batch", json={"messages": [one] * 50})
            assert answer.status_code == 202, answer.text
        before = rss(server)
        ask = (
            b"GET /api/v1/messages?limit=200 HTTP/1.1\r\nHost: h\r\n"
            b"Authorization: Bearer %s\r\n\r\n" % mallory.encode()
        )
        with ExitStack() as stack:
            for number in range(60):
                source = f"127.0.0.{2 + number % 2}"
                deaf = stack.enter_context(dial(server, receive_buffer=4096, source=source))
                deaf.sendall(ask)
            for _ in range(20):
                assert api.get("/messages?limit=1", timeout=30).status_code == 200
                assert rss(server) - before < 80 * MB


def test_a7_a_short_pipeline_is_answered_in_order(server: ServerProcess) -> None:
    """A7：守规矩的管线不受影响。"""
    paths = [b"/healthz", b"/nowhere", b"/healthz"]
    requests = [b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % path for path in paths]
    answer = answer_to(server, b"".join([*requests, b"GET /healthz HTTP/1.0\r\n\r\n"]))
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200", b"200"]


def test_a_long_pipeline_is_closed_after_what_was_answered(server: ServerProcess) -> None:
    """A7：太长的管线答完前面的就关，不抱着几千个请求。"""
    answer = answer_to(server, b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n" * 6_000)
    assert 1 <= answer.count(b"HTTP/1.1 200 ") <= 20
    assert answer.count(b"connection: close") == 1


def test_what_was_turned_away_is_counted(server: ServerProcess) -> None:
    """A2、A6：每一种拒绝都有计数。"""
    answer_to(server, b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 4_000)
    answer = answer_to(server, b"GET /metrics HTTP/1.0\r\n\r\n")
    assert b'meeting_push_turned_away_total{reason="header_fields_too_large"}' in answer


def test_one_address_has_its_share_of_http_connections(server: ServerProcess) -> None:
    """A6、A7：一个地址至多这么多条 HTTP 连接，再来的 429；别的地址照样进得来。"""
    ask = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
    with ExitStack() as stack:
        # 前面的测试的还在告别：等到都走了
        wait_until(lambda: crowded_by(server, ask, stack), timeout=10)
        assert answer_to(server, ask).startswith(b"HTTP/1.1 429 ")
        with dial(server, source="127.0.0.9") as other:
            other.sendall(ask)
            assert other.recv(4096).startswith(b"HTTP/1.1 200 ")
    wait_until(lambda: not answer_429(server, ask), timeout=5)


def crowded_by(server: ServerProcess, ask: bytes, stack: ExitStack) -> bool:
    """占满自己的那一份，每条都得到了回答；没有占满则全部放手，False。"""
    with ExitStack() as mine:
        for _ in range(LIMITS["max_http_connections_per_address"]):
            one = mine.enter_context(dial(server))
            one.sendall(ask)
            if not one.recv(4096).startswith(b"HTTP/1.1 200 "):
                return False
        stack.push(mine.pop_all())
    return True


def answer_429(server: ServerProcess, ask: bytes) -> bool:
    with dial(server) as one:
        one.sendall(ask)
        return one.recv(4096).startswith(b"HTTP/1.1 429 ")
