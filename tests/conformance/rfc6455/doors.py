"""WebSocket 的四扇门，与走进去的握手。"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .wire import TIMEOUT_S, Line

KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 1.3 的例子
ACCEPT: Final = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@dataclass(frozen=True)
class Answer:
    """握手的 HTTP 回答；``rest`` 是其后已经读到的。"""

    status: int
    headers: Mapping[str, str]
    rest: bytes


@dataclass(frozen=True)
class Door:
    name: str
    port: int
    path: str
    token: str

    @property
    def headers(self) -> list[str]:
        """合格的握手的各行。"""
        return [
            f"Host: 127.0.0.1:{self.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {KEY}",
            "Sec-WebSocket-Version: 13",
            f"Authorization: Bearer {self.token}",
        ]

    def request(
        self, *lines: str, without: str = "", path: str | None = None, start: str | None = None
    ) -> bytes:
        """合格的握手，去掉名为 ``without`` 的行，再加上 ``lines``。"""
        first = start or f"GET {path or self.path} HTTP/1.1"
        kept = [line for line in self.headers if not without or not line.startswith(f"{without}:")]
        return "\r\n".join([first, *kept, *lines, "", ""]).encode("latin-1")

    def dial(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S)

    def ask(self, request: bytes) -> Answer:
        """说一个请求，读回答；拒绝的要由服务器关上。"""
        with self.dial() as one:
            one.sendall(request)
            answer = read_answer(one)
            if answer.status != 101:
                assert_ended(one)
            return answer

    def open(self, request: bytes | None = None) -> Line:
        """升级完成、收到 welcome 的一条。"""
        one = self.dial()
        one.sendall(request or self.request())
        answer = read_answer(one)
        assert answer.status == 101, answer
        line = Line(one, answer.rest)
        line.read_json("welcome")
        return line


def read_answer(one: socket.socket) -> Answer:
    received = b""
    while b"\r\n\r\n" not in received:
        data = one.recv(65_536)
        assert data, f"no answer, only {received!r}"
        received += data
    head, _, rest = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Answer(int(first.split(" ")[1]), headers, rest)


def assert_ended(one: socket.socket) -> None:
    one.settimeout(5)
    try:
        while one.recv(65_536):
            pass
    except ConnectionError:
        pass
