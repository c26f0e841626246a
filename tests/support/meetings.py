"""像外人一样开会：REST 召开，websockets 进场。"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import jwt
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.support import asyncapi
from tests.support.people import Frame, Person, api_of
from tests.support.server_process import TEST_JWT_SECRET, ServerProcess


async def hold(
    server: ServerProcess, organizer: Person, *others: Person, title: str = "周会"
) -> str:
    """召开一场会议，返回 meeting_id。"""
    body = {"title": title, "participant_ids": [person.user_id for person in others]}
    async with api_of(server.base_url, organizer) as api:
        answer = await api.post("/meetings", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["meeting_id"])


async def end(server: ServerProcess, ender: Person, meeting_id: str) -> Frame:
    async with api_of(server.base_url, ender) as api:
        answer = await api.post(f"/meetings/{meeting_id}/end")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def token(user_id: int, *, role: str = "user", name: str = "", iat: float = 1) -> str:
    """像 ``meeting-push token`` 那样签一枚。"""
    claims = {
        "sub": str(user_id),
        "role": role,
        "name": name,
        "aud": "meeting-push",
        "iat": iat,
        "exp": 4_000_000_000,
    }
    return jwt.encode(claims, TEST_JWT_SECRET, algorithm="HS256")


def recorder() -> Person:
    """一个语音识别器；不在用户表里。"""
    return Person(900_001, "识别器", token(900_001, role="recorder", name="识别器"))


class Attendee:
    """一条会议连接：按次序读到的帧。"""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.welcome: Frame = {}

    async def read(self, timeout: float = 10) -> Frame:
        text = await asyncio.wait_for(self.socket.recv(), timeout)
        frame = json.loads(text)
        assert isinstance(frame, dict)
        asyncapi.MEETING.check_server_frame(frame)
        return frame

    async def read_type(self, *kinds: str) -> Frame:
        """下一个这些类型的帧；别的跳过。"""
        while (frame := await self.read())["type"] not in kinds:
            pass
        return frame

    async def history(self) -> list[Frame]:
        """读完补发。"""
        segments: list[Frame] = []
        while True:
            frame = await self.read_type("history")
            segments += frame["segments"]
            if frame["complete"]:
                return segments

    async def segments(self, count: int) -> list[Frame]:
        """接下来 ``count`` 段最终的。"""
        found: list[Frame] = []
        while len(found) < count:
            frame = await self.read_type("segment")
            if not frame["interim"]:
                found.append(frame)
        return found

    async def send(self, **frame: object) -> None:
        await self.socket.send(json.dumps(frame))

    async def say(self, text: str, start_ms: int = 0, **fields: object) -> None:
        spoken = {"text": text, "start_ms": start_ms, "end_ms": start_ms + 100, **fields}
        await self.send(type="segment", **spoken)

    async def ask(self, kind: str, **frame: object) -> Frame:
        """发一帧，等类型为 ``kind`` 的回答。"""
        await self.send(**frame)
        return await self.read_type(kind, "error")

    async def closed(self) -> int:
        """读到被关闭为止，返回关闭码。"""
        async with asyncio.timeout(15):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await self.socket.recv()
        assert self.socket.close_code is not None
        return self.socket.close_code


def meeting_url(server: ServerProcess, meeting_id: str, **query: str | int) -> str:
    path = f"ws://127.0.0.1:{server.port}/ws/meeting/{meeting_id}"
    return f"{path}?{urlencode(query)}" if query else path


@contextlib.asynccontextmanager
async def knock(
    server: ServerProcess, person: Person, meeting_id: str, **options: Any
) -> AsyncIterator[Attendee]:
    """连上，什么也还没读。"""
    query = options.pop("query", {})
    options.setdefault(
        "subprotocols", [Subprotocol("meeting-push.v1"), Subprotocol(f"bearer.{person.token}")]
    )
    options.setdefault("max_queue", None)  # 不因没读完而停下，关闭才不用等
    url = meeting_url(server, meeting_id, **query)
    async with connect(url, proxy=None, compression=None, **options) as socket:
        yield Attendee(socket)


@contextlib.asynccontextmanager
async def attend(
    server: ServerProcess, person: Person, meeting_id: str, **options: Any
) -> AsyncIterator[Attendee]:
    """已收到 welcome 的连接；补发还没读。"""
    async with knock(server, person, meeting_id, **options) as attendee:
        attendee.welcome = await attendee.read()
        assert attendee.welcome["type"] == "welcome", attendee.welcome
        yield attendee


@contextlib.asynccontextmanager
async def live(
    server: ServerProcess, person: Person, meeting_id: str, **options: Any
) -> AsyncIterator[Attendee]:
    """补发已读完（不看）的连接。"""
    async with attend(server, person, meeting_id, **options) as attendee:
        await attendee.history()
        yield attendee
