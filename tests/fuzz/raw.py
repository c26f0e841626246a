"""裸套接字：不借助任何会替我们守规矩的库。"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable

import psutil
import pytest

from tests.support.server_process import ServerProcess

#: 等一个回答；比服务器最长的期限（WebSocket 关了不走的，5 秒）宽。
PATIENCE_S = 8.0
MB = 2**20


def dial(
    server: ServerProcess, *, source: str = "127.0.0.1", receive_buffer: int | None = None
) -> socket.socket:
    one = socket.socket()
    if receive_buffer is not None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    one.settimeout(PATIENCE_S)
    one.bind((source, 0))
    one.connect(("127.0.0.1", server.port))
    return one


def answer_to(server: ServerProcess, *parts: bytes) -> bytes:
    """发完这些，读到对方关上为止。

    :raises TimeoutError: 到时没有关上
    """
    with dial(server) as one:
        pour(one, parts)
        return read_to_end(one)


def read_to_end(one: socket.socket) -> bytes:
    seen = b""
    try:
        while data := one.recv(65_536):
            seen += data
    except ConnectionResetError:
        pass
    return seen


def pour(one: socket.socket, parts: Iterable[bytes]) -> int:
    """送到有了回答、对方不要了，或送完；返回送出多少。"""
    sent = 0
    try:
        for part in parts:
            if select.select([one], [], [], 0)[0]:
                break
            one.sendall(part)
            sent += len(part)
    except OSError:
        return sent
    return sent


def rss(server: ServerProcess) -> int:
    return psutil.Process(server.pid).memory_info().rss


def accepted(server: ServerProcess) -> int:
    connections = psutil.Process(server.pid).net_connections("tcp")
    return sum(one.laddr.port == server.port and bool(one.raddr) for one in connections)


#: 说了一个开头，然后是说不完的、不是内容的字节。
CHUNKED = (
    b"POST /api/v1/auth/login HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


NOT_CONTENT = pytest.mark.parametrize(
    ("start", "endless"),
    [
        pytest.param(CHUNKED + b"2\r\n{}\r\n0\r\n", b"a:b\r\n" * 4_000, id="trailers"),
        pytest.param(CHUNKED + b"2\r\n{}\r\n0\r\n", b"a" * 20_000, id="one-trailer-name"),
        pytest.param(CHUNKED + b"2\r\n{}\r\n0\r\na: ", b"b" * 20_000, id="one-trailer-value"),
        pytest.param(CHUNKED + b"2;", b"e" * 20_000, id="one-extension"),
        pytest.param(CHUNKED, b"1;" + b"e" * 9_000 + b"\r\n \r\n", id="extensions"),
        pytest.param(CHUNKED, b"0" * 20_000, id="zeros-of-a-size"),
        pytest.param(CHUNKED, b"1\r\n \r\n" * 4_000, id="tiny-chunks"),
        pytest.param(b"", b"\r\n" * 10_000, id="empty-lines"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"a:b\r\n" * 4_000, id="headers"),
        pytest.param(b"GET / HTTP/1.1\r\nA: ", b"b" * 20_000, id="one-header"),
        pytest.param(b"GET /", b"a" * 20_000, id="the-path"),
        pytest.param(b"", b"\x16\x03\x01\x02\x00\x01\x00" * 1_000, id="tls"),
        pytest.param(b"", b"G" * 20_000, id="the-method"),
    ],
)
