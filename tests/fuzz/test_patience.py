"""CON-1：不说完的、不读的、不走的，都只占有限的时间与内存；说得完的不受影响。"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator
from itertools import repeat

import httpx
import psutil
import pytest

from meeting_push.http.upgrade_request import MAX_HEAD_BYTES
from meeting_push_bench.fuzz import http_requests, ws_frames
from meeting_push_bench.target import Target
from tests.support.eventually import wait_until
from tests.support.server_process import TEST_JWT_SECRET, ServerProcess

from .raw import dial, read_to_end

#: 期限缩短；最长的一个测试等它两次。
LIMITS = {
    "handshake_timeout_s": 0.5,
    "heartbeat_interval_s": 1,
    "heartbeat_timeout_s": 2,
    "outbox_max_delay_s": 0.5,
}
USER = 4_000_000


@pytest.fixture(scope="module", params=["native", "asgi"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("patience")
    with ServerProcess(directory, settings={"edge": request.param, **LIMITS}) as process:
        yield process


def upgraded(server: ServerProcess, *, receive_buffer: int | None = None) -> socket.socket:
    """已认证、收到 welcome 的一条。"""
    target = Target(
        host="127.0.0.1",
        port=server.port,
        redis_url="",
        jwt_secret=TEST_JWT_SECRET,
        jwt_audience="meeting-push",
    )
    one = dial(server, receive_buffer=receive_buffer)
    one.sendall(http_requests.upgrade(b"/ws/user/%d/messages" % USER, target.token(USER)))
    seen = b""
    while b'"welcome"' not in seen:
        data = one.recv(4096)
        assert data, seen
        seen += data
    return one


def sent_until_cut(one: socket.socket, parts: Iterable[bytes], pause_s: float = 0) -> bool:
    """逐份发送；对方断开则 True，都发完了还没断则 False。"""
    try:
        for part in parts:
            one.sendall(part)
            time.sleep(pause_s)  # 慢吞吞本身就是被测的事
    except OSError:
        return True
    return False


def test_a_silent_connection_is_cut_off(server: ServerProcess) -> None:
    with dial(server) as one:
        assert read_to_end(one) == b""


@pytest.mark.parametrize("said", [b"GET", b"GET /ws/user/1/mess", b"GET / HTTP/1.1\r\nHost:"])
def test_half_a_request_is_answered_and_cut_off(server: ServerProcess, said: bytes) -> None:
    with dial(server) as one:
        one.sendall(said)
        assert read_to_end(one).startswith(b"HTTP/1.1 408 ")


def test_dripping_does_not_extend_the_time_limit(server: ServerProcess) -> None:
    request = http_requests.upgrade(b"/ws/user/1/messages", "t" * 1000)
    start = time.monotonic()
    with dial(server) as one:
        assert sent_until_cut(one, (bytes([byte]) for byte in request), pause_s=0.02)
    assert time.monotonic() - start < 5


def test_an_endless_head_is_cut_off(server: ServerProcess) -> None:
    with dial(server) as one:
        one.sendall(b"GET / HTTP/1.1\r\n")
        assert sent_until_cut(one, repeat(b"X: " + b"y" * 1000 + b"\r\n", MAX_HEAD_BYTES))
        assert b"HTTP/1.1 431 " in read_to_end(one)


def test_a_head_within_the_limit_is_read(server: ServerProcess) -> None:
    headers = {"x-long": "y" * (MAX_HEAD_BYTES // 2)}
    answer = httpx.get(f"{server.base_url}/healthz", headers=headers, trust_env=False)
    assert answer.status_code == 200


def test_a_connection_kept_alive_between_requests_is_not_cut_off(server: ServerProcess) -> None:
    with httpx.Client(base_url=server.base_url, trust_env=False) as api, dial(server) as silent:
        assert api.get("/healthz").status_code == 200
        read_to_end(silent)  # 握手的期限已过
        (connection,) = api._transport._pool.connections  # type: ignore[attr-defined]
        assert connection.is_idle()
        assert api.get("/healthz").status_code == 200
        assert api._transport._pool.connections == [connection]  # type: ignore[attr-defined]


def test_con_1_pings_without_reading_take_bounded_memory(server: ServerProcess) -> None:
    burst = ws_frames.frame(ws_frames.PING, b"p" * 125) * 1000
    process = psutil.Process(server.pid)
    with upgraded(server, receive_buffer=4096) as flood:
        before = process.memory_info().rss
        sent_until_cut(flood, repeat(burst, 400))
        assert process.memory_info().rss - before < 30 * 2**20


def test_con_1_a_client_that_never_reads_holds_no_socket(server: ServerProcess) -> None:
    """关闭帧排在读不走的数据后面也一样：到时掐断，描述符还回来。"""
    before = accepted_sockets(server)
    heartbeats = ws_frames.frame(1, b'{"type":"heartbeat","timestamp":1}') * 500
    with upgraded(server, receive_buffer=4096) as deaf:
        sent_until_cut(deaf, repeat(heartbeats, 2_000))
        wait_until(lambda: accepted_sockets(server) <= before, timeout=30)


def accepted_sockets(server: ServerProcess) -> int:
    """服务器手里的客户端连接；别的描述符（SQL、Redis）多少不关这里的事。"""
    connections = psutil.Process(server.pid).net_connections("tcp")
    return sum(one.laddr.port == server.port and bool(one.raddr) for one in connections)
