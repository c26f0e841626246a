"""A14：排了一串请求就走的，连接断开就消失，不等垃圾回收。"""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from loguru import logger
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from meeting_push.http.doorway import MAX_PIPELINED
from meeting_push.http.patient_http import PatientHttp
from meeting_push.limits.rate import RefusalPace
from meeting_push.websocket.event_line import EventConnection
from meeting_push.websocket.event_socket import EventSocket
from meeting_push.websocket.native import native_edge
from tests.support.eventually import eventually
from tests.support.garbage import alive
from tests.support.live_app import served
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node

_OURS = (PatientHttp, RequestResponseCycle)
_STREAMS = (EventSocket, EventConnection)
UPLOAD = (
    b"POST /api/v1/messages HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
    b"Content-Length: 400000\r\n\r\n"
)


@pytest.fixture
async def node(tmp_path: Path, redis_server: RedisServer, key_prefix: str) -> AsyncIterator[Node]:
    async with running_node(tmp_path, redis_server.url, key_prefix) as node:
        yield node


async def test_a14_who_asks_a_lot_and_leaves_leaves_no_cycles(node: Node) -> None:
    async with served(node.push, native_edge(node.push.manager)) as port:
        await _ask_and_go(node, port)  # 首次使用才造的东西不算
        gc.collect()
        before = alive(_OURS)
        gc.disable()
        try:
            await _ask_and_go(node, port)
            await eventually(lambda: alive(_OURS) <= before)
        finally:
            gc.enable()


async def test_a14_an_answer_nobody_waits_for_is_no_error(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A14: 断开之后才答完的，日志里没有回溯。"""
    asked, left, answered = asyncio.Event(), asyncio.Event(), asyncio.Event()
    unread = node.push.messages.get_unread_count

    async def after_he_left(user_id: int) -> int:
        asked.set()
        await left.wait()
        answered.set()
        return await unread(user_id)

    monkeypatch.setattr(node.push.messages, "get_unread_count", after_he_left)
    errors: list[str] = []
    gc.collect()  # 别的测试留下的循环不算：下面看的是进程里所有的连接
    before = alive(_OURS)
    sink = logger.add(lambda line: errors.append(str(line)), level="ERROR")
    async with served(node.push, native_edge(node.push.manager)) as port:
        writer = await _ask(node, port)
        await asked.wait()
        await _go(writer)
        for one in _lines():
            one.transport.abort()
        del one
        await eventually(lambda: all(one.cycle is None for one in _lines()))
        left.set()
        await answered.wait()
        await eventually(lambda: alive(_OURS) <= before)
    logger.remove(sink)
    assert errors == []


async def test_a14_who_has_left_is_not_worked_for(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A14: 说完就走的，轮到读它时已经走了：不解析，不办。"""
    asked = 0

    async def unread(_user_id: int) -> int:
        nonlocal asked
        asked += 1
        return 0

    monkeypatch.setattr(node.push.messages, "get_unread_count", unread)
    async with served(node.push, native_edge(node.push.manager)) as port:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(_head(node))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_head(node))
        await reader.readuntil(b"\r\n\r\n")  # 排在他后面的有了回答
        await _go(writer)
    assert asked == 1


async def test_a13_a_path_that_is_not_there_is_knocking_too(node: Node) -> None:
    """A13: 没有的路径与别的拒绝同一本账；等着时走了的不再等。"""
    admission = node.push.manager.admission
    admission.pace = RefusalPace(per_s=0.001, burst=1, delay_s=1_000)
    gc.collect()
    before = alive(_OURS)
    async with served(node.push, native_edge(node.push.manager)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b" 404 " in await reader.readuntil(b"\r\n\r\n")
        assert admission.refusal_delay_s("127.0.0.1") > 0
        writer.write(b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n")
        await writer.drain()
        await _go(writer)
        await eventually(lambda: alive(_OURS) <= before)


@pytest.mark.parametrize("held", [False, True])
async def test_alerts_a_body_nobody_wants_is_not_kept(node: Node, held: bool) -> None:
    """没有令牌的上传：回答了、还在听告别的，一再来、等着听回答的，都不留着收下的那一段。"""
    if held:
        node.push.manager.admission.pace = RefusalPace(per_s=0.001, burst=1, delay_s=1_000)
        node.push.manager.admission.pace.delay_s("127.0.0.1", 0)
    async with served(node.push, native_edge(node.push.manager)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(UPLOAD + b"x" * 60_000)
        asked = [one for one in await eventually(_cycles) if one.scope["method"] == "POST"]
        if not held:
            await reader.readuntil(b"\r\n\r\n")
        await eventually(lambda: not any(one.body for one in asked))
        asked.clear()
        await _go(writer)


@pytest.mark.parametrize("valid", [True, False])
async def test_a11_a_stream_that_has_ended_leaves_no_cycles(node: Node, valid: bool) -> None:
    """A11: 事件流、它的连接，自己走的、被拒绝的，断开就消失，不等垃圾回收。"""
    async with served(node.push, native_edge(node.push.manager)) as port:
        await _follow_and_go(node, port, valid)  # 首次使用才造的东西不算
        gc.collect()
        before = alive(_STREAMS)
        gc.disable()
        try:
            for _ in range(3):
                await _follow_and_go(node, port, valid)
            await eventually(lambda: alive(_STREAMS) <= before)
        finally:
            gc.enable()


async def _follow_and_go(node: Node, port: int, valid: bool) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    bearer = f"Authorization: Bearer {node.person(7).token if valid else 'no.such.token'}"
    path = "/sse/user/7/messages"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: h\r\n{bearer}\r\n\r\n".encode())
    await reader.readuntil(b'"welcome"' if valid else b" 401 ")
    await _go(writer)


async def _ask_and_go(node: Node, port: int) -> None:
    await _go(await _ask(node, port))


async def _ask(node: Node, port: int) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_head(node) * MAX_PIPELINED * 2)
    await writer.drain()
    return writer


def _head(node: Node) -> bytes:
    bearer = f"Authorization: Bearer {node.person(7).token}"
    return f"GET /api/v1/messages HTTP/1.1\r\nHost: h\r\n{bearer}\r\n\r\n".encode()


async def _go(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


def _cycles() -> list[RequestResponseCycle]:
    return [each for each in gc.get_objects() if isinstance(each, RequestResponseCycle)]


def _lines() -> list[PatientHttp]:
    return [each for each in gc.get_objects() if isinstance(each, PatientHttp)]
