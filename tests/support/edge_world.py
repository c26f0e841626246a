"""一个进程内的边缘：管理者、替身、清扫、监听端口，以及说协议的外来客户端。"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from meeting_push.clock import now_ms
from meeting_push.http.cors import Cors
from meeting_push.http.doorway import Patience
from meeting_push.http.ops_http import OpsAnswer
from meeting_push.http.patient_http import patient_http
from meeting_push.limits.rate import RefusalPace
from meeting_push.model import Principal
from meeting_push.node_identity import NodeIdentity
from meeting_push.router.contract_route import complete
from meeting_push.router.event_stream import event_stream_router
from meeting_push.settings import Settings
from meeting_push.websocket.asgi import user_messages_endpoint
from meeting_push.websocket.native import native_edge, serve_native
from meeting_push.websocket.requests import Sinks

from .doors import door
from .event_streams import EventStream, event_stream
from .limits import limits_with
from .stand_ins import (
    AckSink,
    Bus,
    Channels,
    Mailbox,
    PresenceSink,
    ReadSink,
    RetrySink,
    Unhurried,
    Verifier,
    Watches,
    authenticator_of,
    manager_of,
)

TOKEN_TTL_MS = 3_600_000


class World:
    """``port`` 由 ``serve`` 填上。"""

    def __init__(self, **limits: Any) -> None:
        self.settings = Settings(_env_file=None, **limits)
        self.verifier = Verifier()
        self.channels = Channels()
        self.mailbox = Mailbox()
        self.acks = AckSink()
        self.presence = PresenceSink()
        self.reads = ReadSink()
        self.limits = Unhurried()
        self.retries = RetrySink()
        origins = self.settings.handshake.allowed_origins
        self.manager = manager_of(
            Sinks(self.acks, self.presence, self.reads, Watches(), self.retries),
            authenticator=authenticator_of(self.verifier, origins, self.limits),
            channels=self.channels,
            mailbox=self.mailbox,
            limits=limits_with(**limits),
            node=NodeIdentity("node-1"),
        )
        self.bus = Bus(self.mailbox, self.channels, self.manager.on_channel_message)
        self.cors = Cors(self.settings.handshake.allowed_origins)
        self.doorway = door(pace=self.manager.admission.pace, cors=self.cors)
        self.port = 0

    def tire(self, delay_s: float) -> None:
        """从此每个地址、每个人只有头一次拒绝是立即的；再来的等 ``delay_s``。"""
        pace = RefusalPace(per_s=0.001, burst=1, delay_s=delay_s)
        self.manager.admission.pace = self.doorway.pace = pace

    def token(
        self, user_id: int, ttl_ms: int = TOKEN_TTL_MS, name: str = "", role: str = "user"
    ) -> str:
        """一枚新的有效令牌。"""
        now = now_ms()
        token = f"token-{user_id}-{name or len(self.verifier.tokens)}"
        self.verifier.tokens[token] = Principal(user_id, role, now, now + ttl_ms)
        return token

    @contextlib.asynccontextmanager
    async def stream(
        self, user_id: int = 1, query: str = "", *, token: str | None = None, **headers: str
    ) -> AsyncIterator[EventStream]:
        """一条 SSE 流，令牌在头里；还没有读。"""
        bearer = token if token is not None else self.token(user_id)
        given = {"Authorization": f"Bearer {bearer}", **headers}
        url = f"http://127.0.0.1:{self.port}/sse/user/{user_id}/messages{query}"
        async with event_stream(url, {n.replace("_", "-"): v for n, v in given.items()}) as one:
            yield one

    def url(self, user_id: int | str, query: str = "") -> str:
        return f"ws://127.0.0.1:{self.port}/ws/user/{user_id}/messages{query}"

    @contextlib.asynccontextmanager
    async def client(
        self, user_id: int = 1, query: str = "", *, token: str | None = None, **options: Any
    ) -> AsyncIterator[Client]:
        """已连上（还没读 welcome）的客户端，令牌在子协议里。"""
        bearer = token if token is not None else self.token(user_id)
        protocols = [Subprotocol("meeting-push.v1"), Subprotocol(f"bearer.{bearer}")]
        options.setdefault("subprotocols", protocols)
        async with connect(self.url(user_id, query), compression=None, **options) as websocket:
            yield Client(websocket)

    @contextlib.asynccontextmanager
    async def live(
        self, user_id: int = 1, query: str = "", **options: Any
    ) -> AsyncIterator[Client]:
        """已收到 welcome 的客户端。"""
        async with self.client(user_id, query, **options) as client:
            welcome = await client.read()
            assert welcome["type"] == "welcome"
            client.welcome = welcome
            yield client


class Client:
    """把文本帧读成 JSON 的外来客户端。"""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket
        self.welcome: dict[str, Any] = {}

    async def read(self) -> dict[str, Any]:
        frame = json.loads(await self.read_text())
        assert isinstance(frame, dict)
        return frame

    async def read_text(self) -> str:
        async with asyncio.timeout(5):
            text = await self.websocket.recv()
        assert isinstance(text, str)
        return text

    async def read_messages(self, count: int) -> list[dict[str, Any]]:
        """读到 ``count`` 条消息为止，不论是单独的还是 ``batch`` 里的。"""
        messages: list[dict[str, Any]] = []
        while len(messages) < count:
            frame = await self.read()
            messages += frame["messages"] if frame["type"] == "batch" else [frame]
        return messages

    async def send(self, **frame: object) -> None:
        await self.websocket.send(json.dumps(frame))

    async def ask(self, **frame: object) -> dict[str, Any]:
        await self.send(**frame)
        return await self.read()

    async def closed(self) -> tuple[int, str]:
        """等到被关闭，返回 (码, 原因)；途中的帧不看。"""
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await self.websocket.recv()
        received = self.websocket.protocol.close_rcvd
        assert received is not None, "the server vanished without a close frame"
        return received.code, received.reason


def listening_socket() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    sock.setblocking(False)
    return sock


@contextlib.asynccontextmanager
async def _uvicorn(world: World, ws: Any) -> AsyncIterator[None]:
    app = FastAPI()
    app.add_api_websocket_route(
        "/ws/user/{user_id}/messages", user_messages_endpoint(world.manager)
    )
    app.router.routes.extend(complete(event_stream_router(world.manager).routes, world.cors))
    config = uvicorn.Config(
        app,
        http=patient_http(Patience(world.manager.limits.handshake_timeout_s), world.doorway),
        ws=ws,
        loop="none",
        lifespan="off",
        log_config=None,
        ws_per_message_deflate=False,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    sock = listening_socket()
    world.port = sock.getsockname()[1]
    await server.startup(sockets=[sock])
    try:
        yield
    finally:  # 不走 uvicorn 的 shutdown：它每次固定睡 0.1 秒
        await world.manager.close_all()
        await asyncio.gather(*server.server_state.tasks)
        for listener in server.servers:
            listener.close()
            await listener.wait_closed()


@contextlib.asynccontextmanager
async def serve_native_behind_uvicorn(world: World) -> AsyncIterator[None]:
    async with _uvicorn(world, native_edge(world.manager, world.cors)):
        yield


@contextlib.asynccontextmanager
async def serve_asgi(world: World) -> AsyncIterator[None]:
    async with _uvicorn(world, "websockets-sansio"):
        yield


@contextlib.asynccontextmanager
async def serve_bare(world: World) -> AsyncIterator[None]:
    async def ops(path: str) -> OpsAnswer:
        if path == "/healthz":
            return OpsAnswer(200, "text/plain", b"ok\n")
        return OpsAnswer(404, "text/plain", b"not found\n")

    sock = listening_socket()
    world.port = sock.getsockname()[1]
    server = await serve_native(world.manager, sock=sock, ops=ops, doorway=world.doorway)
    try:
        yield
    finally:
        await world.manager.close_all()
        server.close()
        await server.wait_closed()
