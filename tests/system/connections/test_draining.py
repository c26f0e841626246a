"""关机，从外面看：人少就快；第二个信号不再等谁。"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import time
from pathlib import Path

from tests.support.eventually import wait_until
from tests.support.people import device, register
from tests.support.server_process import ServerProcess


async def test_a_few_sockets_are_quick(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        bob = await register(server.base_url, "bob")
        url = server.ws_url(bob.user_id)
        async with device(url, bob) as one, device(url, bob) as two:
            started = time.monotonic()
            assert await asyncio.to_thread(server.terminate) == 0
            assert time.monotonic() - started < 4
            await asyncio.wait([one.reader, two.reader])


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, settings={"handshake_timeout_s": 30}) as server:
        bob = await register(server.base_url, "bob")
        _, stubborn = await silent_socket(server, bob.user_id, bob.token)
        os.kill(server.pid, signal.SIGTERM)
        await asyncio.to_thread(wait_until, lambda: "draining" in server.output, 10)
        started = time.monotonic()
        assert await asyncio.to_thread(server.terminate) == 1
        assert time.monotonic() - started < 5
        stubborn.close()


async def silent_socket(
    server: ServerProcess, user_id: int, token: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """升级之后再也不说话的客户端：关闭帧也不回。"""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET /ws/user/{user_id}/messages HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head, head
    return reader, writer
