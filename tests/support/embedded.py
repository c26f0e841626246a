"""内嵌：一个普通的 FastAPI 应用承载我们，由 uvicorn 在本进程里跑着。"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI

from meeting_push import MeetingPush
from meeting_push.websocket.native import native_edge


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # 测试进程的信号归 pytest
        yield


@contextlib.asynccontextmanager
async def hosted(
    push: MeetingPush, app: FastAPI | None = None, *, native: bool = False
) -> AsyncIterator[str]:
    """``主机:端口``；``app`` 不给就是一个只有我们的应用。探针与网页都在。"""
    app = app or FastAPI(lifespan=push.lifespan)
    for router in (push.router, push.probes, push.pages):
        app.include_router(router)
    sock = socket.create_server(("127.0.0.1", 0))
    ws = native_edge(push.manager) if native else "websockets-sansio"
    server = _Server(uvicorn.Config(app, log_config=None, ws=ws))  # type: ignore[arg-type]
    task = asyncio.create_task(server.serve(sockets=[sock]))
    up = asyncio.create_task(server.up.wait())
    await asyncio.wait((task, up), return_when=asyncio.FIRST_COMPLETED)
    up.cancel()
    assert server.started, task
    try:
        yield f"127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
