"""真实服务器说出的每一帧都合文档：两种 edge 各走一遍能引出它们的事。"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from meeting_push.redis.keys import Keys
from tests.support import asyncapi
from tests.support.event_streams import Event, EventStream, event_stream
from tests.support.eventually import eventually
from tests.support.people import Frame, Person, api_of, register, send
from tests.support.server_process import TEST_JWT_SECRET, ServerProcess
from tests.system.broadcast.conftest import broadcast

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=["native", "asgi"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    settings = {"edge": request.param, "drain_window_s": 0, "mailbox_max_entries": 1}
    with ServerProcess(tmp_path, settings=settings) as process:
        yield process


class Listener:
    """收下的帧逐一记下；``ask`` 等到想要的那种。"""

    def __init__(self, socket: ClientConnection) -> None:
        self.frames: list[Frame] = []
        self._socket = socket

    async def ask(self, wanted: str, **frame: Any) -> Frame:
        await self._socket.send(json.dumps(frame))
        return await self.until(wanted)

    async def until(self, wanted: str) -> Frame:
        while True:
            text = await asyncio.wait_for(self._socket.recv(), 20)
            self.frames.append(json.loads(text))
            if self.frames[-1]["type"] == wanted:
                return self.frames[-1]

    async def close_code(self) -> int | None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.until("nothing")
        return self._socket.close_code


@contextlib.asynccontextmanager
async def listening(url: str, token: str) -> AsyncIterator[Listener]:
    protocols = [Subprotocol("meeting-push.v1"), Subprotocol(f"bearer.{token}")]
    async with connect(url, subprotocols=protocols, proxy=None) as socket:
        assert socket.subprotocol == "meeting-push.v1"
        yield Listener(socket)


def short_token(user_id: int, ttl_s: int = 50) -> str:
    """一个管理员的：他也看整个系统此刻的数。"""
    now = int(time.time())
    claims = {"sub": str(user_id), "role": "admin", "aud": "meeting-push"}
    return jwt.encode({**claims, "iat": now, "exp": now + ttl_s}, TEST_JWT_SECRET)


async def test_every_frame_of_a_server_fits_the_document(server: ServerProcess) -> None:
    heard = await conversation(server)
    for frame in heard:
        asyncapi.USER.check_server_frame(frame)
    sent = {frame["type"] for frame in heard}
    assert sent == asyncapi.USER.messages("send").keys()


async def test_every_event_of_a_stream_fits_the_document(server: ServerProcess) -> None:
    heard = await streamed_conversation(server)
    for event in heard:
        asyncapi.EVENTS.check_server_frame(event.data)
        assert (event.kind == "close") == ("type" not in event.data)
        assert event.kind == "close" or re.fullmatch(r"[!-~]{1,64}:\d+", event.id or "")
    kinds = {event.data.get("type", "stream_closed") for event in heard}
    assert kinds == asyncapi.EVENTS.messages("send").keys()


class StreamListener:
    """事件流的 ``Listener``。"""

    def __init__(self, stream: EventStream) -> None:
        self.events: list[Event] = []
        self._stream = stream

    async def until(self, *wanted: str) -> Frame:
        """这些都来过了，次序不论；最后来的那一帧。"""
        missing = set(wanted)
        while True:
            self.events.append(await self._stream.read())
            data = self.events[-1].data
            missing.discard(data.get("type", "stream_closed"))
            if not missing:
                return data


@contextlib.asynccontextmanager
async def streaming(
    server: ServerProcess, user_id: int, token: str, last: str | None = None
) -> AsyncIterator[StreamListener]:
    headers = {"Authorization": f"Bearer {token}"} | ({"Last-Event-ID": last} if last else {})
    async with event_stream(f"{server.base_url}/sse/user/{user_id}/messages", headers) as stream:
        yield StreamListener(stream)


async def streamed_conversation(server: ServerProcess) -> list[Event]:
    alice, bob, carol = [
        await register(server.base_url, name) for name in ("alice", "bob", "carol")
    ]
    for _ in range(2):  # 信箱只装一条
        await send(server.base_url, alice, [carol])
    async with redis_of(server) as redis:
        await eventually(lambda: redis.zcard(Keys().evicted_messages(carol.user_id)))
    async with streaming(server, carol.user_id, carol.token) as late:
        await late.until("gap", "batch")
    waiting = await send(server.base_url, alice, [bob], receipt=True)
    await in_mailbox(server, bob)
    token = short_token(bob.user_id)
    async with (
        streaming(server, alice.user_id, alice.token) as sender,
        streaming(server, bob.user_id, token, "another:5") as phone,
        api_of(server.base_url, bob) as api,
        api_of(server.base_url, alice) as hers,
    ):
        await sender.until("welcome")
        await phone.until("welcome", "resync", "batch", "token_expiring")
        await api.post("/acks", json={"message_ids": [waiting]})
        await sender.until("receipt")
        await api.post("/messages/read", json={"message_ids": [waiting]})
        await phone.until("read_sync")
        await api.post("/messages/state", json={"message_ids": [waiting], "archived": True})
        await phone.until("inbox_sync")
        sent = await send(server.base_url, alice, [bob])
        await phone.until("new_message")
        await hers.delete(f"/messages/{sent}")
        await phone.until("withdrawn")
        await asyncio.to_thread(server.terminate)
        await phone.until("notice", "stream_closed")
        return late.events + sender.events + phone.events


async def conversation(server: ServerProcess) -> list[Frame]:
    """两个人把能引出的帧都引出来；最后服务器从容退出。"""
    alice = await register(server.base_url, "alice")
    bob = await register(server.base_url, "bob")
    returned = await coming_back(server, alice)
    waiting = await send(server.base_url, alice, [bob], receipt=True, data={"k": [1]}, priority=9)
    await in_mailbox(server, bob)
    async with (
        listening(server.ws_url(alice.user_id), alice.token) as sender,
        listening(
            server.ws_url(bob.user_id, epoch="another", last_seq=5), short_token(bob.user_id)
        ) as phone,
    ):
        await sender.until("welcome")
        await phone.until("batch")
        await phone.until("token_expiring")
        await requests(phone, waiting, alice, bob)
        await states(server, phone, waiting, bob)
        await sender.until("receipt")
        await live_messages(server, phone, alice, bob)
        await asyncio.to_thread(server.terminate)
        assert await phone.close_code() == await sender.close_code() == 4000
        return returned + sender.frames + phone.frames


async def coming_back(server: ServerProcess, alice: Person) -> list[Frame]:
    """在的时候来了一条广播；不在的时候又一条，信箱也满了：宣告缺口，补发两种。"""
    carol = await register(server.base_url, "carol")
    url = server.ws_url(carol.user_id)
    async with listening(url, carol.token) as first:
        await first.until("welcome")
        await broadcast(server)
        assert "broadcast_id" in await first.until("new_message")
    await broadcast(server)
    for _ in range(2):  # 信箱只装一条
        await send(server.base_url, alice, [carol])
    async with redis_of(server) as redis:
        await eventually(lambda: redis.zcard(Keys().evicted_messages(carol.user_id)))
    async with listening(url, carol.token) as second:
        gap = await second.until("gap")
        assert (gap["from_seq"], gap["to_seq"], gap["reason"]) == (1, 1, "evicted")
        for _ in range(2):
            await second.until("batch")
    return first.frames + second.frames


async def in_mailbox(server: ServerProcess, owner: Person) -> None:
    """等到有一条在信箱里：此后连接的设备从 ``batch`` 收到它。"""
    async with redis_of(server) as redis:
        await eventually(lambda: redis.zcard(Keys().mailbox(owner.user_id)))


def redis_of(server: ServerProcess) -> Redis:
    return Redis(unix_socket_path=str(server.directory / "data" / "redis" / "redis.sock"))


async def requests(phone: Listener, message_id: str, alice: Person, bob: Person) -> None:
    await phone.ask("heartbeat_ack", type="heartbeat", timestamp=1, request_id="h")
    ids = [message_id, "0" * 26]
    result = await phone.ask("ack_result", type="ack", message_ids=ids, request_id=1)
    assert (result["accepted"], result["unknown"]) == (1, ["0" * 26])
    await phone.ask("status_result", type="status", status="busy", request_id="s")
    await phone.ask("read_sync", type="read", message_ids=[message_id], request_id="r")
    await phone.ask("presence", type="watch", user_ids=[alice.user_id, 10**9])
    await phone.ask("watch_result", type="unwatch", user_ids=[10**9], request_id="u")
    await phone.ask("ops_watch_result", type="ops_watch", request_id="o")
    await phone.until("ops")
    await phone.ask("error", type="dance", request_id="e")
    await phone.ask("token_refreshed", type="refresh_token", token=bob.token)


async def states(server: ServerProcess, phone: Listener, message_id: str, bob: Person) -> None:
    """他在网页上归档一条：手机听得到。"""
    async with api_of(server.base_url, bob) as api:
        await api.post("/messages/state", json={"message_ids": [message_id], "archived": True})
    assert (await phone.until("inbox_sync"))["message_ids"] == [message_id]


async def live_messages(server: ServerProcess, phone: Listener, alice: Person, bob: Person) -> None:
    """经系统接受的一条，又撤回；与别的进程直接发布的一条。"""
    sent = await send(
        server.base_url, alice, [bob], content="字\u2028\U0001f600", message_type="notification"
    )
    await phone.until("new_message")
    async with api_of(server.base_url, alice) as api:
        await api.delete(f"/messages/{sent}")
    assert (await phone.until("withdrawn"))["message_id"] == sent
    envelope = {"type": "new_message", "message_id": "x", "title": "t", "content": "c"}
    async with redis_of(server) as redis:
        await redis.publish(f"user:{{{bob.user_id}}}:messages", json.dumps(envelope))
    assert await phone.until("new_message") == envelope


async def test_a_token_is_taken_in_each_documented_way(server: ServerProcess) -> None:
    alice = await register(server.base_url, "alice")
    token, url = alice.token, server.ws_url(alice.user_id)
    async with connect(url, additional_headers=alice.headers) as header:
        await welcomed(header)
    protocols = [Subprotocol("meeting-push.v1"), Subprotocol(f"bearer.{token}")]
    async with connect(url, subprotocols=protocols) as subprotocol:
        await welcomed(subprotocol)
    async with connect(f"{url}?ticket={await ticket(server, alice)}") as query:
        await welcomed(query)
    async with connect(f"{url}?token={token}") as query:
        await welcomed(query)


async def ticket(server: ServerProcess, person: Person) -> str:
    async with api_of(server.base_url, person) as api:
        answer = await api.post("/auth/ws-ticket")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["ticket"])


async def welcomed(socket: ClientConnection) -> None:
    assert json.loads(await asyncio.wait_for(socket.recv(), 20))["type"] == "welcome"
