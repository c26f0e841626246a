"""uvicorn 的 WebSocket：说不完的一条消息占的内存不比它的内容多。"""

from __future__ import annotations

import asyncio

import uvicorn
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from meeting_push.websocket.uvicorn_socket import BoundedWebSocket


async def test_a2_pieces_are_joined_as_they_come() -> None:
    """A2 的同类：空的片不留下什么；最后一片到了，整条交给应用。"""
    config = uvicorn.Config(lambda *_: None, loop="none", lifespan="off", log_config=None)
    config.load()
    socket = BoundedWebSocket(config, ServerState(), {}, asyncio.get_running_loop())
    socket.read_paused = True  # 没有传输可停
    socket.handle_text(Frame(Opcode.TEXT, b"he", fin=False))
    for _ in range(10_000):
        socket.handle_cont(Frame(Opcode.CONT, b"", fin=False))
    assert len(socket.frames) == 1
    socket.handle_cont(Frame(Opcode.CONT, b"ll", fin=False))
    socket.handle_cont(Frame(Opcode.CONT, b"o", fin=True))
    assert socket.queue.get_nowait() == {"type": "websocket.receive", "text": "hello"}
