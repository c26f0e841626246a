"""握手的规矩在两种驱动上都一样：限速、代理后面的地址、令牌的来处、换密钥。"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.server_process import TEST_JWT_SECRET, ServerProcess

from .visitors import Lines, login, post, rest_code, sign, stranger

RATE_LIMITED = 4005
NEW_SECRET = "another-secret-another-secret-another!"
#: 慢到测试期间不会补上一个。
SLOWLY = 0.001
#: 每个测试假装从自己的地址来，所以共用一个服务器；10.0.0.0/8 也是我们的代理。
STRICT = {
    "trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"],
    "ws_token_sources": ["header", "ticket"],
    "jwt_secret": NEW_SECRET,
    "jwt_previous_secrets": [TEST_JWT_SECRET],
    "handshakes_per_address_per_s": SLOWLY,
    "handshakes_per_address_burst": 12,
    "handshakes_per_user_per_s": SLOWLY,
    "handshakes_per_user_burst": 2,
    "auth_failures_per_address_per_s": SLOWLY,
    "auth_failures_per_address_burst": 5,
    "auth_failure_delay_s": 0,
}


@pytest.fixture(scope="module", params=["native", "asgi"])
def edge(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def strict(edge: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    settings = {"edge": edge} | {
        name: json.dumps(value) if isinstance(value, list) else value
        for name, value in STRICT.items()
    }
    with ServerProcess(tmp_path_factory.mktemp(edge), settings=settings) as server:
        yield server


async def code(
    server: ServerProcess, lines: Lines, user_id: int, bearer: str, address: str, **query: str
) -> int:
    """从 ``address`` 带着头里的令牌来，会以什么码被关闭；0 是没有。"""
    headers = {"x-forwarded-for": address}
    if bearer:
        headers["authorization"] = f"Bearer {bearer}"
    return await lines.code(server.ws_url(user_id, **query), additional_headers=headers)


async def test_strangers_of_an_address_who_come_too_fast_are_4005_and_nobody_else(
    strict: ServerProcess, lines: Lines
) -> None:
    """一个地址后面的别人，带着有效的令牌照样进得来。"""
    late = sign(101, ttl_s=-60)
    codes = [await code(strict, lines, 101, late, "198.51.100.1") for _ in range(15)]
    assert codes == [4004] * 12 + [RATE_LIMITED] * 3
    assert await code(strict, lines, 120, sign(120), "198.51.100.1") == 0
    logged = [line for line in strict.output.splitlines() if "198.51.100.1 " in line + " "]
    assert sum("rate_limited" in line for line in logged) == 1


async def test_a_user_who_connects_too_fast_is_4005_and_nobody_can_do_it_for_him(
    strict: ServerProcess, lines: Lines
) -> None:
    for _ in range(4):
        assert await code(strict, lines, 130, "nonsense", "198.51.100.3") == 4500
    token = sign(130)
    codes = [await code(strict, lines, 130, token, "198.51.100.4") for _ in range(3)]
    assert codes == [0, 0, RATE_LIMITED]


async def test_an_address_that_guesses_tokens_is_4005(strict: ServerProcess, lines: Lines) -> None:
    for _ in range(6):  # 过期的是我们签过的，不算猜
        assert await code(strict, lines, 140, sign(140, ttl_s=-60), "198.51.100.5") == 4004
    codes = [await code(strict, lines, 140, f"trial-{n}", "198.51.100.5") for n in range(6)]
    assert codes == [4500] * 5 + [RATE_LIMITED]
    assert await code(strict, lines, 141, sign(141), "198.51.100.5") == 0
    assert "trial" not in strict.output


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "path", ["/ws/user/142/messages", "/ws/meeting/01JAAAAAAAAAAAAAAAAAAAAAAA"]
)
async def test_an_address_that_keeps_failing_waits_in_line_for_its_upgrades(
    strict: ServerProcess, lines: Lines, path: str
) -> None:
    """KEYS：拿了 101 就走的也有步调；同一个地址有效的令牌不在那一队里。"""
    address = "198.51.100.2" + str(len(path))
    for number in range(6):
        await code(strict, lines, 142, f"trial-{number}", address)
    knocks = [
        asyncio.create_task(upgraded(strict, f"{path}?ticket=made-up-{number}", address))
        for number in range(40)
    ]
    assert await code(strict, lines, 143, sign(143), address) == 0
    assert max(await asyncio.gather(*knocks)) >= 3


async def upgraded(server: ServerProcess, target: str, address: str) -> float:
    """过了几秒才升级；升级了就走。"""
    started = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        f"GET {target} HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {address}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    try:
        assert (await reader.readline()).startswith(b"HTTP/1.1 101 ")
    finally:
        writer.transport.abort()
    return time.monotonic() - started


async def test_ways_to_bring_a_token_can_be_turned_off(strict: ServerProcess, lines: Lines) -> None:
    token = sign(150)
    ticket = (await post(strict, "/auth/ws-ticket", token)).json()["ticket"]
    here = {"x-forwarded-for": "198.51.100.6"}
    codes = {
        "header": await code(strict, lines, 150, token, "198.51.100.6"),
        "ticket": await code(strict, lines, 150, "", "198.51.100.6", ticket=ticket),
        "query": await code(strict, lines, 150, "", "198.51.100.6", token=token),
        "subprotocol": await lines.code(strict.ws_url(150), token, additional_headers=here),
    }
    assert codes == {"header": 0, "ticket": 0, "query": 4500, "subprotocol": 4500}


async def test_tokens_survive_the_rotation_of_the_secret(
    strict: ServerProcess, lines: Lines
) -> None:
    assert await code(strict, lines, 160, sign(160), "198.51.100.7") == 0
    assert await code(strict, lines, 160, sign(160, secret=NEW_SECRET), "198.51.100.7") == 0
    assert await code(strict, lines, 160, sign(160, secret="f" * 40), "198.51.100.7") == 4500
    issued = (await login(strict, "alice")).person.token
    assert await rest_code(strict, issued) == "ok"


async def address_of(server: ServerProcess, lines: Lines, user_id: int, forwarded: str) -> str:
    """连接的 ``ip_address``；登录失败的日志必须记着同一个。"""
    alice = stranger(user_id)
    bearer = {"authorization": f"Bearer {alice.token}"}
    headers = {"x-forwarded-for": forwarded}
    await lines.open(server, alice, subprotocols=None, additional_headers=headers | bearer)
    async with httpx.AsyncClient(trust_env=False, headers=bearer) as api:
        url = f"{server.base_url}/api/v1/presence/users/{user_id}"
        while not (found := (await api.get(url)).json()["connections"]):
            pass
    body = {"username": f"nobody-{user_id}", "password": "wrong password"}
    await post(server, "/auth/login", body=body, headers=headers)
    failure = [row for row in server.output.splitlines() if "auth_login_failed" in row][-1]
    seen = str(found[0]["ip_address"])
    assert f"address={seen} " in failure
    return seen


async def test_a_trusted_proxy_tells_the_address(strict: ServerProcess, lines: Lines) -> None:
    forwarded = "1.1.1.1, 203.0.113.9, 10.0.0.2"
    assert await address_of(strict, lines, 170, forwarded) == "203.0.113.9"


async def test_x_forwarded_for_is_ignored_by_default_even_from_loopback(
    edge: str, tmp_path_factory: pytest.TempPathFactory, lines: Lines
) -> None:
    with ServerProcess(tmp_path_factory.mktemp("plain"), settings={"edge": edge}) as server:
        assert await address_of(server, lines, 170, "203.0.113.9") == "127.0.0.1"
