"""契约的每一个关闭码：真的服务器进程、外来的客户端、两种驱动，码与原因都不差。

每种驱动一个服务器，时限都缩短了；4000 用掉它，之后要用的测试再启动一次。
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import httpx
import pytest
from redis import Redis
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from meeting_push.protocol.codes import CloseCode
from tests.support.edge_world import Client
from tests.support.eventually import eventually
from tests.support.house import House, house_fixture
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess
from tests.system.auth.visitors import admin, post, sign

MAX_FRAME_BYTES: Final = 1024
BAD_FRAMES: Final = 3
CONNECTS_PER_USER: Final = 3
SETTINGS: Final = {
    "heartbeat_interval_s": 0.6,
    "heartbeat_timeout_s": 1.2,
    "max_frame_bytes": MAX_FRAME_BYTES,
    "outbox_max_bytes": 64 * 1024,
    "bad_frame_limit": BAD_FRAMES,
    "handshakes_per_user_per_s": 0.001,  # 测试期间补不上一个
    "handshakes_per_user_burst": CONNECTS_PER_USER,
    "max_devices_per_user": 1,
    "device_policy": "replace_same_device",
    "auth_failure_delay_s": 0,
    "presence_flush_ms": 10,
}
_user_ids = itertools.count(1)


class Visit:
    """一个从没来过的用户和他的连接。"""

    def __init__(
        self, server: ServerProcess, redis: RedisServer, lines: contextlib.AsyncExitStack
    ) -> None:
        self.server = server
        self.redis = redis
        self.user_id = next(_user_ids)
        self._lines = lines

    async def knock(self, token: str = "", query: str = "", **options: Any) -> Client:
        """连上，什么也还没读。"""
        bearer = Subprotocol(f"bearer.{token or sign(self.user_id)}")
        options.setdefault("subprotocols", [Subprotocol("meeting-push.v1"), bearer])
        url = self.server.ws_url(self.user_id) + query
        line = connect(url, proxy=None, compression=None, **options)
        return Client(await self._lines.enter_async_context(line))

    async def live(self, token: str = "", query: str = "", **options: Any) -> Client:
        """已收到 welcome。"""
        client = await self.knock(token, query, **options)
        client.welcome = await client.read()
        assert client.welcome["type"] == "welcome", client.welcome
        return client


#: 使一条连接被关闭；返回那条连接。
Provocation = Callable[[Visit], Awaitable[Client]]
CASES: Final[dict[CloseCode, Provocation]] = {}


def provokes(code: CloseCode) -> Callable[[Provocation], Provocation]:
    def register(provocation: Provocation) -> Provocation:
        CASES[code] = provocation
        return provocation

    return register


@provokes(CloseCode.NORMAL)
async def says_goodbye(visit: Visit) -> Client:
    client = await visit.live()
    # 服务器从不主动用 1000，只用它回答；uvicorn 把对方的原因原样送回
    await client.websocket.close(1000, "normal")
    return client


@provokes(CloseCode.PROTOCOL_ERROR)
async def continues_nothing(visit: Visit) -> Client:
    client = await visit.live()
    client.websocket.transport.write(bytes.fromhex("808000000000"))  # CONTINUATION，没有开头
    return client


@provokes(CloseCode.INVALID_UTF8)
async def sends_no_text(visit: Visit) -> Client:
    client = await visit.live()
    await client.websocket.send(b'{"type":"\xff"}', text=True)
    return client


@provokes(CloseCode.MESSAGE_TOO_BIG)
async def sends_far_too_much(visit: Visit) -> Client:
    client = await visit.live()
    await client.websocket.send("x" * MAX_FRAME_BYTES * 3)
    return client


@provokes(CloseCode.SLOW_CONSUMER)
async def does_not_read(visit: Visit) -> Client:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", visit.server.port))
    client = await visit.live(sock=sock, max_queue=1, max_size=None)
    message = {"type": "new_message", "message_id": "m", "title": "t"}
    frame = json.dumps(message | {"content": "x" * 50_000})
    published = 0
    with Redis.from_url(visit.redis.url) as redis:
        while redis.publish(f"user:{{{visit.user_id}}}:messages", frame):  # 0：已退订
            published += 1
            assert published < 2_000, "100 MB went to a client that does not read"
    return client


@provokes(CloseCode.HEARTBEAT_TIMEOUT)
async def keeps_silent(visit: Visit) -> Client:
    return await visit.live()


@provokes(CloseCode.TOKEN_EXPIRED)
async def lets_the_token_expire(visit: Visit) -> Client:
    return await visit.live(sign(visit.user_id, ttl_s=0.5))


@provokes(CloseCode.RATE_LIMITED)
async def connects_too_fast(visit: Visit) -> Client:
    for _ in range(CONNECTS_PER_USER):
        await visit.knock(query="?device_id=one")
    return await visit.knock(query="?device_id=one")


@provokes(CloseCode.TOO_MANY_CONNECTIONS)
async def brings_too_many_devices(visit: Visit) -> Client:
    await visit.live()
    return await visit.knock()


@provokes(CloseCode.NODE_UNHEALTHY)
async def comes_while_redis_is_away(visit: Visit) -> Client:
    visit.redis.kill()
    try:
        client = await visit.knock(query="?ticket=t", subprotocols=None)
        await client.websocket.wait_closed()
    finally:
        visit.redis.start()
        await eventually(lambda: asyncio.to_thread(visit.server.is_ready))
    return client


@provokes(CloseCode.INVALID_TOKEN)
async def brings_nonsense(visit: Visit) -> Client:
    return await visit.knock("nonsense")


@provokes(CloseCode.FORBIDDEN)
async def brings_the_token_of_another(visit: Visit) -> Client:
    return await visit.knock(sign(next(_user_ids)))


@provokes(CloseCode.REVOKED)
async def is_revoked(visit: Visit) -> Client:
    client = await visit.live()
    answer = await post(visit.server, f"/users/{visit.user_id}/revoke", admin().token)
    assert answer.status_code == 204, answer.text
    return client


@provokes(CloseCode.KICKED)
async def is_kicked(visit: Visit) -> Client:
    client = await visit.live()
    path = f"/users/{visit.user_id}/connections/{client.welcome['connection_id']}"
    async with httpx.AsyncClient(headers=admin().headers, trust_env=False) as api:

        async def kicked() -> bool:
            answer = await api.delete(f"{visit.server.base_url}/api/v1/presence{path}")
            return answer.status_code == 204  # 404：在线状态还没写进去

        await eventually(kicked)
    return client


@provokes(CloseCode.PROTOCOL_VIOLATION)
async def talks_nonsense(visit: Visit) -> Client:
    client = await visit.live()
    for _ in range(BAD_FRAMES):
        await client.websocket.send("nonsense")
    return client


@provokes(CloseCode.REPLACED)
async def comes_again_with_the_same_device(visit: Visit) -> Client:
    old = await visit.live(query="?device_id=phone")
    await visit.live(query="?device_id=phone")
    return old


@provokes(CloseCode.SERVER_DRAINING)
async def is_there_when_the_server_stops(visit: Visit) -> Client:
    client = await visit.live()
    assert await asyncio.to_thread(visit.server.terminate) == 0
    return client


house = house_fixture(
    {edge: ("all", {"edge": edge}) for edge in ("native", "asgi")}, shared=SETTINGS
)


@pytest.fixture(params=["native", "asgi"])
async def visit(house: House, request: pytest.FixtureRequest) -> AsyncIterator[Visit]:
    server = house[request.param]
    if not server.running:
        server.start()
    async with contextlib.AsyncExitStack() as lines:
        yield Visit(server, house.redis_server, lines)


@pytest.mark.parametrize("code", CASES, ids=lambda code: code.reason)
async def test_each_close_code_reaches_a_foreign_client(visit: Visit, code: CloseCode) -> None:
    client = await CASES[code](visit)
    closed, reason = await client.closed()
    assert closed == code
    # 1xxx 多半是 WebSocket 库一读到就发的，原因由库来写
    assert reason if CloseCode.NORMAL < code < 4000 else reason == code.reason


def test_every_close_code_has_a_case() -> None:
    assert set(CASES) == set(CloseCode)
