"""照剧本回答的 HTTP 服务器：真的套接字；第 n 个请求得到第 n 个回答。"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reply:
    """``status`` 为 0：收下请求就断开，不回答。"""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        content = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        content = b"" if self.body is None else content
        lines = [f"HTTP/1.1 {self.status} X", f"Content-Length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + content


def error(status: int, code: str, *, temporary: bool = False, **headers: str) -> Reply:
    detail = {"code": code, "message": "no", "temporary": temporary, "details": {"a": 1}}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"error": detail}, names)


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


class ScriptedApi:
    def __init__(self, replies: tuple[Reply, ...]) -> None:
        self._replies = list(replies)
        self.asked: list[Asked] = []
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await _read(reader))
        reply = self._replies.pop(0)
        if reply.status:
            writer.write(reply.encode())
        writer.close()
        await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    body = await reader.readexactly(int(headers.get("Content-Length", 0)))
    return Asked(method, path, headers, json.loads(body) if body else None)


@asynccontextmanager
async def answering(*replies: Reply) -> AsyncIterator[ScriptedApi]:
    api = ScriptedApi(replies)
    server = await asyncio.start_server(api.answer, "127.0.0.1", 0)
    async with server:
        api.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield api
