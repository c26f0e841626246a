"""一条消息、一次确认、一次连接各进入我们的多少个函数、多少个文件；减去闲着也会进的。

``python tools/count_entered.py``：自己起一个服务器（内嵌 Redis、SQLite，临时目录），用 httpx 与
websockets 当客户端，在同一个进程里以 ``sys.setprofile`` 记下进入过的函数；只看我们的包。
"""

from __future__ import annotations

import ast
import asyncio
import json
import os
import signal
import socket
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import httpx
from websockets.asyncio.client import ClientConnection, connect

import meeting_push
from meeting_push.server import run_process
from meeting_push.settings import load_settings

_PACKAGE: Final = str(Path(meeting_push.__file__).parent)
_PASSWORD: Final = "correct horse battery 9"  # noqa: S105 — 一次性的服务器
#: 长于最慢的循环（每分钟一次的活跃用户）：不然它们赶上哪一件就算在哪一件里。
_IDLE_S: Final = 62.0
#: 有连接、有未确认的消息时才有事做的循环；久了会被当作没有心跳的关掉。
_BRIEFLY_S: Final = 12.0
_SETTLE_S: Final = 1.0  # 记录、移出信箱在应答之后

Entered = set[CodeType]


async def _entered(doing: Callable[[], Awaitable[object]]) -> Entered:
    """做这件事（与它身后的）时，事件循环的线程进入的函数。"""
    entered: Entered = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_PACKAGE):
            entered.add(frame.f_code)

    sys.setprofile(note)
    try:
        await doing()
        await asyncio.sleep(_SETTLE_S)
    finally:
        sys.setprofile(None)
    return entered


async def _count(api: httpx.AsyncClient, url: str) -> None:
    names = {"username": "counted", "password": _PASSWORD}
    user_id = (await api.post("/auth/register", json=names)).json()["user_id"]
    token = (await api.post("/auth/login", json=names)).json()["access_token"]
    api.headers["authorization"] = f"Bearer {token}"
    headers = {"Authorization": f"Bearer {token}"}
    path = f"{url}/ws/user/{user_id}/messages"
    body = {"recipient_ids": [user_id], "title": "t", "content": "c"}

    async def opened() -> ClientConnection:
        device = await connect(path, additional_headers=headers, ping_interval=None)
        await _frame(device, "welcome")
        return device

    async def send_one(device: ClientConnection) -> str:
        await api.post("/messages", json=body)
        return str((await _frame(device, "new_message"))["message_id"])

    async def ack(device: ClientConnection, message_id: str) -> None:
        await device.send(json.dumps({"type": "ack", "message_ids": [message_id]}))

    async with await opened() as first:  # 首次使用才走的不算
        await ack(first, await send_one(first))
        await asyncio.sleep(_SETTLE_S)
    idle = await _entered(lambda: asyncio.sleep(_IDLE_S))
    holder: list[ClientConnection] = []
    ids: list[str] = []

    async def keep_open() -> None:
        holder.append(await opened())

    async def keep_sent() -> None:
        ids.append(await send_one(holder[0]))

    _show("connect", await _entered(keep_open) - idle)
    await ack(holder[0], await send_one(holder[0]))  # 一分钟没有收过信的人要问 SQL 在不在：不算
    await asyncio.sleep(_SETTLE_S)
    idle |= await _entered(lambda: asyncio.sleep(_BRIEFLY_S))
    await api.get("/version")  # 闲久了的 HTTP 连接关了：重新连上不算在消息里
    message = await _entered(keep_sent)
    idle |= await _entered(lambda: asyncio.sleep(_BRIEFLY_S))
    _show("message", message - idle)
    _show("ack", await _entered(lambda: ack(holder[0], ids[0])) - idle)
    await holder[0].close()


async def _frame(device: ClientConnection, kind: str) -> dict[str, Any]:
    async for text in device:
        frame: dict[str, Any] = json.loads(text)
        if frame["type"] == kind:
            return frame
    raise ConnectionError("closed")


def _show(what: str, entered: Entered) -> None:
    files = sorted({code.co_filename for code in entered})
    sys.stdout.write(f"{what}: {len(entered)} functions in {len(files)} files\n")
    for file in files:
        here = sorted(code.co_qualname for code in entered if code.co_filename == file)
        sys.stdout.write(f"  {os.path.relpath(file, _PACKAGE)}: {', '.join(here)}\n")


def _show_lengths() -> None:
    files = [f for f in Path(_PACKAGE).rglob("*.py") if "migrations" not in f.parts]
    lengths = sorted(
        node.end_lineno - node.lineno + 1
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    )
    lines = sorted(len(file.read_text().splitlines()) for file in files)
    p95 = lengths[int(len(lengths) * 0.95)]
    sys.stdout.write(
        f"product: {len(files)} files, {sum(lines)} lines, median {statistics.median(lines):.0f}, "
        f"longest {lines[-1]}; functions: {len(lengths)}, P95 of length {p95} lines\n"
    )


async def _main() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        settings = load_settings(data_dir=Path(folder), port=port, log_level="ERROR")
        serving = asyncio.create_task(run_process(settings))
        url = f"127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=f"http://{url}/api/v1", trust_env=False) as api:
            await _until_ready(f"http://{url}/readyz")
            await _count(api, f"ws://{url}")
        os.kill(os.getpid(), signal.SIGTERM)
        await serving


async def _until_ready(url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(30):
        while True:
            try:
                if (await client.get(url)).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    _show_lengths()
    asyncio.run(_main())
