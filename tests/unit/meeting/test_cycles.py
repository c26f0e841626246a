"""A11：会议的连接断开就消失，不等垃圾回收：一再来占座位的几千条，会一份份地留着。"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from meeting_push.http.patient_http import PatientHttp
from meeting_push.meeting.connection import MeetingConnection
from meeting_push.websocket.asgi import AsgiDriver
from meeting_push.websocket.front import Front
from meeting_push.websocket.native import native_edge
from meeting_push.websocket.uvicorn_socket import BoundedWebSocket, StrictProtocol
from tests.support.eventually import eventually
from tests.support.garbage import alive
from tests.support.live_app import served
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node

_OURS = (
    *(MeetingConnection, AsgiDriver, BoundedWebSocket, StrictProtocol),
    *(Front, PatientHttp, WebSocket),
)


@pytest.fixture
async def node(tmp_path: Path, redis_server: RedisServer, key_prefix: str) -> AsyncIterator[Node]:
    async with running_node(tmp_path, redis_server.url, key_prefix) as node:
        yield node


@pytest.mark.parametrize("edge", ["native", "asgi"])
async def test_a11_a_refused_meeting_socket_leaves_no_cycles(node: Node, edge: str) -> None:
    ws = native_edge(node.push.manager) if edge == "native" else BoundedWebSocket
    async with served(node.push, ws) as port:
        gc.collect()
        before = alive(_OURS)
        gc.disable()
        try:
            await _come_and_go(node, port)
            await eventually(lambda: alive(_OURS) <= before)
        finally:
            gc.enable()


async def _come_and_go(node: Node, port: int) -> None:
    url = f"ws://127.0.0.1:{port}/ws/meeting/01J00000000000000000000000"
    headers = {"authorization": f"Bearer {node.person(7).token}"}
    async with connect(url, additional_headers=headers) as socket:
        with contextlib.suppress(ConnectionClosed):
            await socket.recv()
