"""B6：描述符快用完时有日志、有回答，握着的连接与探针都还活着。"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from meeting_push_bench.fuzz import http_requests
from tests.support.eventually import wait_until
from tests.support.meetings import token
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

from .raw import dial

USER = 4_000_000
OPEN_FILES = 96


@pytest.fixture(scope="module", params=["all", "gateway"])
def server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    redis7_server: RedisServer,
) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("descriptors")
    settings = {"key_prefix": f"{directory.name}:", "handshake_timeout_s": 60}
    with ServerProcess(
        directory,
        redis_url=redis7_server.url,
        role=request.param,
        settings=settings,
        max_open_files=OPEN_FILES,
    ) as process:
        yield process


def upgrade(one: socket.socket) -> bytes:
    """升级的回答的第一行。"""
    one.sendall(http_requests.upgrade(b"/ws/user/%d/messages" % USER, token(USER)))
    return one.recv(4096).partition(b"\r\n")[0]


def ready(server: ServerProcess) -> int:
    return httpx.get(f"{server.base_url}/readyz", timeout=10, trust_env=False).status_code


def test_b6_sockets_fill_the_node_and_it_goes_on(server: ServerProcess) -> None:
    """B6：连满之后，新来的得到 503，探针照样 200，握着的照样收发，日志里有一行，不是几百行。"""
    with ExitStack() as stack:
        held: list[socket.socket] = []
        refused = 0
        for _ in range(OPEN_FILES):
            one = stack.enter_context(dial(server))
            answer = upgrade(one)
            if answer.startswith(b"HTTP/1.1 101"):
                held.append(one)
            else:
                assert answer.startswith(b"HTTP/1.1 503"), answer
                refused += 1
        assert refused
        assert len(held) > 20
        assert ready(server) == 200
        assert all(answers(one) for one in (held[0], held[-1]))
    assert 1 <= server.output.count("descriptors_nearly_used_up") <= 3
    wait_until(lambda: takes_more(server), timeout=5)


def test_b6_silent_sockets_give_way(server: ServerProcess) -> None:
    """B6：不说话的占不住门：说话的一来就让位。"""
    with ExitStack() as stack:
        for _ in range(OPEN_FILES * 2):
            stack.enter_context(dial(server))
        wait_until(lambda: takes_more(server), timeout=10)  # 握手的期限还远
        assert ready(server) == 200


def takes_more(server: ServerProcess) -> bool:
    try:
        with dial(server) as one:
            return upgrade(one).startswith(b"HTTP/1.1 101")
    except OSError:
        return False


def answers(one: socket.socket) -> bool:
    """一个 ping 有 pong。"""
    one.sendall(b"\x89\x80\x00\x00\x00\x00")
    seen = b""
    while b"\x8a\x00" not in seen:
        data = one.recv(4096)
        assert data, seen
        seen += data
    return True
