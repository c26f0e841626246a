"""像外人一样用系统：httpx 说 REST，websockets 说 WebSocket，不碰我们的客户端代码。"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

PASSWORD = "correct horse battery"
Frame = dict[str, Any]


@dataclass(frozen=True)
class Person:
    """一个已登录的用户。"""

    user_id: int
    name: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


async def register(base_url: str, name: str) -> Person:
    """注册并登录；名字已被占用（服务器重启过）就只登录。"""
    credentials = {"username": name, "password": PASSWORD}
    async with httpx.AsyncClient(base_url=f"{base_url}/api/v1", trust_env=False) as api:
        registered = await api.post("/auth/register", json=credentials)
        assert registered.status_code in (201, 409), registered.text
    return await login(base_url, name, PASSWORD)


async def login(base_url: str, name: str, password: str) -> Person:
    credentials = {"username": name, "password": password}
    async with httpx.AsyncClient(base_url=f"{base_url}/api/v1", trust_env=False) as api:
        answer = await api.post("/auth/login", json=credentials)
    assert answer.status_code == 200, answer.text
    return Person(answer.json()["user_id"], name, answer.json()["access_token"])


@contextlib.asynccontextmanager
async def api_of(base_url: str, person: Person) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"{base_url}/api/v1", headers=person.headers, trust_env=False, timeout=30
    ) as api:
        yield api


async def send(base_url: str, sender: Person, to: list[Person], **fields: Any) -> str:
    """发一条，返回 message_id。"""
    body = {"recipient_ids": [p.user_id for p in to], "title": "t", "content": "c", **fields}
    async with api_of(base_url, sender) as api:
        answer = await api.post("/messages", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["message_id"])


async def delivery(base_url: str, sender: Person, message_id: str) -> Frame:
    async with api_of(base_url, sender) as api:
        answer = await api.get(f"/messages/{message_id}/delivery")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


class Device:
    """一台设备：收到的 ``new_message`` 排在 ``messages`` 里，其余的在 ``others`` 里。"""

    def __init__(self, socket: ClientConnection, welcome: Frame) -> None:
        self.welcome = welcome
        self.socket = socket
        self.others: list[Frame] = []
        self._messages: asyncio.Queue[Frame] = asyncio.Queue()
        #: 读到连接关闭为止；非正常的关闭码由它抛出。
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for text in self.socket:
            frame = json.loads(text)
            if frame["type"] == "batch":
                for message in frame["messages"]:
                    self._messages.put_nowait(message)
            elif frame["type"] == "new_message":
                self._messages.put_nowait(frame)
            else:
                self.others.append(frame)

    async def next_message(self, timeout: float = 10) -> Frame:
        return await asyncio.wait_for(self._messages.get(), timeout)

    def has_message(self) -> bool:
        return not self._messages.empty()

    async def ack(self, *message_ids: str) -> None:
        await self.socket.send(json.dumps({"type": "ack", "message_ids": list(message_ids)}))

    async def round_trip(self) -> None:
        """服务器处理完我们之前发的一切、我们也读完它之前发的一切之后返回。"""
        pong = await self.socket.ping()
        await asyncio.wait_for(pong, 10)

    async def close(self) -> None:
        await self.socket.close()
        await asyncio.gather(self.reader, return_exceptions=True)


@contextlib.asynccontextmanager
async def device(ws_url: str, person: Person) -> AsyncIterator[Device]:
    """连接，等到 welcome。"""
    socket = await connect(
        ws_url,
        subprotocols=[Subprotocol("meeting-push.v1"), Subprotocol(f"bearer.{person.token}")],
        proxy=None,
    )
    welcome = json.loads(await asyncio.wait_for(socket.recv(), 10))
    assert welcome["type"] == "welcome", welcome
    one = Device(socket, welcome)
    try:
        yield one
    finally:
        await one.close()
