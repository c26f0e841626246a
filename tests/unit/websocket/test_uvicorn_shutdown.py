"""uvicorn 自己关机：我们的连接得到可重连的码，而不是 1012（LESSONS 19），它也不会卡住。"""

from __future__ import annotations

import asyncio
import contextlib

import uvicorn

from meeting_push.websocket.native import native_edge
from tests.support.edge_world import World, listening_socket
from tests.support.eventually import eventually


async def test_uvicorn_going_down_is_4000_for_native_sockets() -> None:
    world = World()
    sock = listening_socket()
    world.port = sock.getsockname()[1]
    config = uvicorn.Config(
        _no_app,
        ws=native_edge(world.manager),  # type: ignore[arg-type]  # 任何可调用物都行
        loop="none",
        lifespan="off",
        log_config=None,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    await eventually(lambda: server.started)
    async with world.live(1) as client:
        server.should_exit = True
        assert await client.closed() == (4000, "server_draining")
    await serving


async def _no_app(scope: object, receive: object, send: object) -> None:
    raise AssertionError("no request reaches the application")
