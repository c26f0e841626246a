"""每个应答都带着请求的 id，日志也是：应用、代理、我们三处对得起来。"""

from __future__ import annotations

import re
from typing import Final

import httpx
import pytest

from tests.support.people import Person
from tests.support.raw_http import request_ids as answered
from tests.support.server_process import ServerProcess

GIVEN: Final = "01J-proxy.7:a/b"
MADE: Final = r"[0-9a-f]{16}"
UPGRADE: Final = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


#: 各道门：应用的路由、没有的路径、405、没有令牌、网页、读不懂的、太大的、WebSocket 之前的拒绝。
DOORS: Final = {
    "ready": ("GET /readyz HTTP/1.1",),
    "no such path": ("GET /nowhere HTTP/1.1",),
    "no such method": ("PATCH /api/v1/messages HTTP/1.1",),
    "not a message": ("GET /api/v1/messages/batch HTTP/1.1",),
    "no token": ("GET /api/v1/messages HTTP/1.1",),
    "no body": ("POST /api/v1/auth/login HTTP/1.1", "Content-Length: 0"),
    "a page": ("GET /inbox HTTP/1.1",),
    "a long head": ("GET / HTTP/1.1", "X-Long: " + "x" * 70_000),
    "no such socket": ("GET /ws/nowhere HTTP/1.1", *UPGRADE),
    "no such user": ("GET /ws/user/x/messages HTTP/1.1", *UPGRADE),
    "foreign origin": ("GET /ws/user/1/messages HTTP/1.1", *UPGRADE, "Origin: http://evil.test"),
}


@pytest.mark.parametrize("door", DOORS)
async def test_every_answer_has_the_id_that_was_given(door: str, server: ServerProcess) -> None:
    line, *headers = DOORS[door]
    assert await answered(server.port, line, f"X-Request-ID: {GIVEN}", *headers) == [GIVEN]


@pytest.mark.parametrize("door", ["ready", "no token", "no such path", "no such user"])
async def test_who_gives_none_gets_a_new_one(door: str, server: ServerProcess) -> None:
    line, *headers = DOORS[door]
    [first] = await answered(server.port, line, *headers)
    [second] = await answered(server.port, line, *headers)
    assert first != second
    assert re.fullmatch(MADE, first)


async def test_what_is_not_http_is_answered_with_one_too(server: ServerProcess) -> None:
    [made] = await answered(server.port, "nonsense")
    assert re.fullmatch(MADE, made)


async def test_the_log_of_a_server_says_the_id(server: ServerProcess, alice: Person) -> None:
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        headers = {"x-request-id": GIVEN, "authorization": "Bearer nonsense"}
        await client.get("/api/v1/messages", headers=headers)
    assert f"request_id={GIVEN}" in server.output


@pytest.mark.parametrize(
    "given",
    [
        pytest.param("y" * 10_000, id="10 KB"),
        pytest.param("\xe9\xff", id="not ascii"),
        pytest.param("a\x1b[2Jb", id="an escape"),
        pytest.param("a\rSet-Cookie: forged=1", id="a bare CR"),
        pytest.param("a\nSet-Cookie: forged=1", id="a bare LF"),
        pytest.param("a\r\n\tforged", id="a folded line"),
        pytest.param("a\x00b", id="a NUL"),
        pytest.param(", ".join(["a"] * 50), id="a list"),
        pytest.param("", id="nothing"),
    ],
)
@pytest.mark.parametrize("door", ["ready", "no token", "a page", "no such user", "a long head"])
async def test_what_is_no_id_is_neither_answered_nor_logged(
    door: str, given: str, server: ServerProcess
) -> None:
    """A13: the answer has one of ours, whatever was given and wherever it was refused."""
    line, *headers = DOORS[door]
    [made] = await answered(server.port, line, f"X-Request-ID: {given}", *headers)
    assert re.fullmatch(rf"{MADE}|a", made)
    assert not re.search("forged|\x1b|yyyyy", server.output)


@pytest.mark.parametrize("door", ["ready", "no token", "a page", "no such user"])
async def test_of_many_ids_one_is_answered(door: str, server: ServerProcess) -> None:
    line, *headers = DOORS[door]
    many = [f"X-Request-ID: many-{number}" for number in range(60)]
    assert await answered(server.port, line, *many, *headers) == ["many-0"]
