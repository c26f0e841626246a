"""请求体的期限：说一半就不说的断开，正常的、排着队的不受影响。"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from meeting_push.http.doorway import Patience
from meeting_push.http.patient_http import patient_http
from tests.support.doors import door
from tests.support.eventually import eventually

POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n"


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # 测试进程的信号归 pytest
        yield


class Echo:
    """读完请求体，等 ``gate``，原样返回。"""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await self.gate.wait()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def port(echo: Echo) -> AsyncIterator[int]:
    sock = socket.create_server(("127.0.0.1", 0))
    patient = patient_http(Patience(0.2, 0.2), door())
    server = _Server(uvicorn.Config(echo, http=patient, lifespan="off", log_config=None))
    task = asyncio.create_task(server.serve(sockets=[sock]))
    await eventually(lambda: server.started)
    yield sock.getsockname()[1]
    server.should_exit = True
    await task


async def say(port: int, *parts: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    return reader, writer


async def test_half_a_body_is_cut_off(port: int) -> None:
    reader, writer = await say(port, POST, b"ab")
    assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_a_whole_body_is_answered(port: int) -> None:
    reader, writer = await say(port, POST, b"ab", b"cd")
    answer = await asyncio.wait_for(reader.readuntil(b"abcd"), 5)
    assert answer.startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_slow_answer_is_no_fault_of_the_client(port: int, echo: Echo) -> None:
    """上一个请求还在处理、后面排着的请求没有人读：期限不算在客户端头上。"""
    echo.gate.clear()
    reader, writer = await say(port, POST + b"abcd" + POST + b"ef")
    writer.write(b"gh")
    await asyncio.sleep(0.6)  # 越过期限本身就是被测的东西
    echo.gate.set()
    await asyncio.wait_for(reader.readuntil(b"abcd"), 5)
    await asyncio.wait_for(reader.readuntil(b"efgh"), 5)
    writer.close()
