"""像外人一样登录、连接、被请出去。"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.support.people import PASSWORD, Frame, Person
from tests.support.server_process import TEST_JWT_SECRET, ServerProcess

#: 第一个注册的不会用到这么大的 id。
ADMIN_ID = 900_000


@dataclass(frozen=True)
class Login:
    """一次登录：一个会话。"""

    person: Person
    refresh_token: str


def sign(
    user_id: int, *, ttl_s: float = 600, secret: str = TEST_JWT_SECRET, **claims: object
) -> str:
    """像我们那样签一枚令牌；没有会话，也没有 jti。"""
    now = time.time()
    given = {"sub": str(user_id), "aud": "meeting-push", "iat": now, "exp": now + ttl_s, **claims}
    return jwt.encode(given, secret, algorithm="HS256")


def admin() -> Person:
    return Person(ADMIN_ID, "root", sign(ADMIN_ID, role="admin"))


def stranger(user_id: int, **options: Any) -> Person:
    """持有我们签的令牌、却不在用户表里的人。"""
    return Person(user_id, "", sign(user_id, **options))


async def post(
    server: ServerProcess,
    path: str,
    token: str = "",
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    sent = {**(headers or {}), **({"authorization": f"Bearer {token}"} if token else {})}
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        return await client.post(f"{server.base_url}/api/v1{path}", json=body, headers=sent)


async def login(server: ServerProcess, name: str) -> Login:
    """注册（若还没有）并登录。"""
    credentials = {"username": name, "password": PASSWORD}
    await post(server, "/auth/register", body=credentials)
    answer = await post(server, "/auth/login", body=credentials)
    assert answer.status_code == 200, answer.text
    return login_of(answer, name)


def login_of(answer: httpx.Response, name: str) -> Login:
    tokens = answer.json()
    person = Person(tokens["user_id"], name, tokens["access_token"])
    return Login(person, tokens["refresh_token"])


async def rest_code(server: ServerProcess, token: str) -> str:
    """这枚令牌在 REST 上的下场：``ok`` 或错误码。"""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(
            f"{server.base_url}/api/v1/messages", headers={"authorization": f"Bearer {token}"}
        )
    return "ok" if answer.status_code == 200 else str(answer.json()["error"]["code"])


class Line:
    """一条用户连接，一直在读。"""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.welcome: Frame = {}

    async def read(self) -> Frame:
        frame = json.loads(await asyncio.wait_for(self.socket.recv(), 10))
        assert isinstance(frame, dict)
        return frame

    async def ask(self, **frame: object) -> Frame:
        await self.socket.send(json.dumps(frame))
        return await self.read()

    async def closed(self, timeout: float = 10) -> int:
        """读到被关闭为止，返回关闭码。"""
        async with asyncio.timeout(timeout):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await self.socket.recv()
        assert self.socket.close_code is not None
        return self.socket.close_code


class Lines(contextlib.AsyncExitStack):
    """测试结束时一并挂断。"""

    async def knock(self, url: str, token: str = "", **options: Any) -> Line:
        """连上，什么也还没读；令牌在子协议里。"""
        if token:
            protocols = [Subprotocol("meeting-push.v1"), Subprotocol(f"bearer.{token}")]
            options.setdefault("subprotocols", protocols)
        socket = await connect(url, proxy=None, compression=None, **options)
        self.push_async_callback(socket.close)
        return Line(socket)

    async def open(self, server: ServerProcess, person: Person, **options: Any) -> Line:
        """已收到 welcome 的连接。"""
        line = await self.knock(server.ws_url(person.user_id), person.token, **options)
        line.welcome = await line.read()
        assert line.welcome["type"] == "welcome", line.welcome
        return line

    async def code(self, url: str, token: str = "", **options: Any) -> int:
        """连上去会以什么码被关闭；没有被关闭（收到 welcome）则 0。"""
        line = await self.knock(url, token, **options)
        try:
            await line.read()
        except ConnectionClosed:
            return line.socket.close_code or 0
        return 0
