"""A13、A14：从外面能制造的每一种事件，都灌不满日志，伪造不了一行，也没有回溯。"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

from tests.support.server_process import ServerProcess

#: 一种事件一分钟至多这么多行，再加一行数目。
MOST: Final = 21
FORGED: Final = "2026-01-01 forged"
HOSTILE: Final = f"x\n{FORGED}\x1b[31m\x9b"


def request(path: str, body: object, *headers: str, method: str = "POST") -> bytes:
    content = json.dumps(body).encode()
    head = [
        f"{method} {path} HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *headers,
    ]
    return "\r\n".join([*head, "", ""]).encode() + content


def upgrade(path: str, *headers: str) -> bytes:
    head = [
        f"GET {path} HTTP/1.1",
        "Host: x",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *headers,
    ]
    return "\r\n".join([*head, "", ""]).encode()


LOGIN: Final = request("/api/v1/auth/login", {"username": HOSTILE, "password": "wrong password"})
USER: Final = "/ws/user/1/messages"
MEETING: Final = "/ws/meeting/01ARZ3NDEKTSV4RRFFQ69G5FAV"
ATTACKS: Final = {
    "refused logins": LOGIN,
    "refused refreshes": request("/api/v1/auth/refresh", {"refresh_token": HOSTILE}),
    "registrations": request("/api/v1/auth/register", {"username": HOSTILE, "password": "x"}),
    "bad bearers": request("/api/v1/messages", None, "Authorization: Bearer x", method="GET"),
    "a forging path": request("/%0a2026-01-01%20forged%1b[31m", None, method="GET"),
    "a raw escape": request("/\x1b[31m", None, method="GET"),
    "broken requests": b"\x00\x01\x1b[31m\r\n\r\n",
    "bad sockets": upgrade(USER, "Authorization: Bearer x"),
    "bad meeting sockets": upgrade(MEETING, "Authorization: Bearer x"),
    "foreign origins": upgrade(USER, "Origin: http://evil.example\x1b[31m"),
    "foreign meeting origins": upgrade(MEETING, "Origin: http://evil.example"),
    "a strange version": upgrade(USER).replace(b"Version: 13", b"Version: 99"),
    "unmasked frames": upgrade(MEETING) + b"\x81\x05hello" * 20,
    "pipelined, then closed": LOGIN * 30,
    "half a body": LOGIN[:-5],
}


@pytest.fixture(scope="module", params=["native", "asgi"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    settings = {
        "edge": request.param,
        "trusted_proxies": '["127.0.0.0/8"]',
        "auth_failure_delay_s": 0,
    }
    with ServerProcess(tmp_path_factory.mktemp(str(request.param)), settings=settings) as one:
        yield one


async def strike(port: int, payload: bytes, turn: int) -> None:
    """每次从另一个 /24 来（代理说的），所以按地址的限速挡不住。"""
    forwarded = f"\r\nX-Forwarded-For: 10.{turn % 200}.{turn // 200}.1\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(OSError, TimeoutError):
        writer.write(payload.replace(b"\r\nHost: x\r\n", b"\r\nHost: x" + forwarded))
        await writer.drain()
        if turn % 2:  # 一半等回答，一半说完就走
            async with asyncio.timeout(0.2):
                await reader.read(1)
    with contextlib.suppress(OSError):
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a14_no_attack_fills_the_log(attack: str, server: ServerProcess) -> None:
    """A14: 0.1 里 5 秒至多 871,230 行，有回溯。"""

    async def flood() -> None:
        await asyncio.gather(*(strike(server.port, ATTACKS[attack], turn) for turn in range(50)))

    before = len(server.output)
    asyncio.run(flood())
    lines = server.output[before:].splitlines()
    kinds = Counter(tuple(line.split()[1:3]) for line in lines)
    assert max(kinds.values(), default=0) <= MOST, kinds
    assert "Traceback" not in server.output


def test_a13_nothing_sent_from_outside_forges_a_line(server: ServerProcess) -> None:
    """A13: 所有攻击之后，日志里每一行都是我们的，没有控制符。"""
    for attack in ("refused logins", "a forging path", "foreign origins", "bad sockets"):
        asyncio.run(strike(server.port, ATTACKS[attack], 1))
    lines = server.output.splitlines()
    assert all(line.isprintable() for line in lines)
    assert not [line for line in lines if line.startswith(FORGED)]
