"""请求体：先看多长、看是谁，再读；读着的一共也有限（A16）。"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import psutil
import pytest

from meeting_push.errors import RateLimitedError, UnavailableError
from meeting_push.router.json_body import BodyBudget
from tests.support.meetings import token
from tests.support.server_process import ServerProcess

from .raw import dial

MB = 2**20
LIMITS = {"handshake_timeout_s": 2, "max_request_bytes": 4 * MB}
ALICE = token(4_000_001)
ADMIN = token(4_000_002, role="admin")
#: 谁都能发的、要令牌的、要管理员的；各自有多小的上限。
ROUTES = [
    ("/auth/register", 10 * 1024),
    ("/auth/login", 10 * 1024),
    ("/auth/refresh", 10 * 1024),
    ("/messages", 4 * MB),
    ("/messages/batch", 4 * MB),
    ("/messages/read", 64 * 1024),
    ("/messages/broadcast", 4 * MB),
    ("/meetings", 4 * MB),
    ("/meetings/01ARZ3NDEKTSV4RRFFQ69G5FAV/participants", 4 * MB),
    ("/queues/dead-letter/requeue", 64 * 1024),
]
SECURED = [path for path, _ in ROUTES if not path.startswith("/auth/")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("bodies"), settings=LIMITS) as process:
        yield process


def head(path: str, *fields: str, bearer: str = "") -> bytes:
    lines = [f"POST /api/v1{path} HTTP/1.1", "Host: h", "Content-Type: application/json", *fields]
    if bearer:
        lines.append(f"Authorization: Bearer {bearer}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def status(one: socket.socket) -> int:
    answer = one.recv(4096)
    return int(answer.split(b" ", 2)[1]) if answer else 0


def test_a_refused_upload_hears_why(server: ServerProcess) -> None:
    """只管往外写、写完才读的客户端也听得到 413，不是重置；它最先：洪水会用完丢弃的量。"""
    with dial(server) as one:
        one.sendall(head("/messages", "Content-Length: 9000000", bearer=ALICE))
        for _ in range(9):
            one.sendall(b"x" * 1_000_000)
        assert status(one) == 413


@pytest.mark.parametrize("path", SECURED)
@pytest.mark.parametrize("framing", ["Content-Length: 3000000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("bearer", ["", "junk"])
def test_a16_who_has_no_token_is_refused_unread(
    server: ServerProcess, path: str, framing: str, bearer: str
) -> None:
    """A16：没有令牌的，请求头说完就有回答：一个字节的请求体也不等。"""
    with dial(server) as one:
        one.sendall(head(path, framing, bearer=bearer))
        assert status(one) in (401, 413)


@pytest.mark.parametrize(("path", "most"), ROUTES)
def test_a16_each_route_has_its_own_limit(server: ServerProcess, path: str, most: int) -> None:
    """A16：声明得太长的，不读就 413，哪怕令牌是好的。"""
    with dial(server) as one:
        one.sendall(head(path, f"Content-Length: {most + 1}", bearer=ADMIN))
        assert status(one) == 413


@pytest.mark.parametrize(("path", "most"), [each for each in ROUTES if each[1] < MB])
def test_a16_an_undeclared_body_is_cut_where_it_is_too_long(
    server: ServerProcess, path: str, most: int
) -> None:
    """A16：分块的边读边数，越过就 413，不等它说完。"""
    chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
    with dial(server) as one:
        one.sendall(head(path, "Transfer-Encoding: chunked", bearer=ADMIN))
        one.sendall(chunk * (most // 1024 + 2))
        assert status(one) == 413


def test_a16_a_plain_user_does_not_have_an_admins_body_read(server: ServerProcess) -> None:
    """A16：管理员的路由，别人的请求体不读。"""
    for path in ("/messages/broadcast", "/queues/dead-letter/requeue"):
        with dial(server) as one:
            one.sendall(head(path, "Content-Length: 60000", bearer=ALICE))
            assert status(one) == 403


def test_a16_withheld_last_bytes_take_bounded_memory(server: ServerProcess) -> None:
    """A16：有令牌的人开四十条连接、各留最后一个字节不发：一共有限，到时断开，别人照样发。"""
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    size = 3 * MB
    body = b'{"messages": [' + b" " * (size - 15)
    held = [dial(server) for _ in range(40)]
    try:
        for one in held:
            one.sendall(head("/messages/batch", f"Content-Length: {size}", bearer=ALICE))
        for one in held:
            try:
                one.sendall(body)
            except OSError:
                continue  # 已经拒绝了
        assert process.memory_info().rss - before < 60 * MB
        text = json.dumps({"message_ids": ["01ARZ3NDEKTSV4RRFFQ69G5FAV"] * 900}).encode()
        with dial(server) as other:
            fields = f"Content-Length: {len(text)}"
            other.sendall(head("/messages/read", fields, bearer=ADMIN) + text)
            assert status(other) == 200
        # 交错着来的可能个个都没轮到收完
        statuses = {status(one) for one in held} - {0}
        assert statuses
        assert statuses <= {408, 429}
    finally:
        for one in held:
            one.close()


def test_expect_continue_is_not_encouraged(server: ServerProcess) -> None:
    """A16：先问再发的（``Expect: 100-continue``），不该发的听不到 100。"""
    with dial(server) as one:
        fields = ("Content-Length: 60000", "Expect: 100-continue")
        one.sendall(head("/messages", *fields))
        assert status(one) == 401
    with dial(server) as one:
        one.sendall(head("/messages", *fields, bearer=ALICE))
        assert status(one) == 100


def test_a_refused_body_ends_the_connection(server: ServerProcess) -> None:
    """没有人要的请求体不会被当成下一个请求。"""
    with dial(server) as one:
        one.sendall(head("/messages", "Content-Length: 400", bearer="junk"))
        one.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n      ")
        seen = b""
        while data := one.recv(4096):
            seen += data
    assert [part[:3] for part in seen.split(b"HTTP/1.1 ")[1:]] == [b"401"]


def test_a_budget_is_shared_and_given_back() -> None:
    budget = BodyBudget(share=10, total=15)
    budget.take("mallory", 10)
    with pytest.raises(RateLimitedError):
        budget.take("mallory", 1)
    budget.take("alice", 5)
    with pytest.raises(UnavailableError):
        budget.take("bob", 1)
    budget.give_back("mallory", 10)
    budget.take("bob", 1)
