"""老实人的 REST：几条长连接轮着用，从自己的地址。"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec

from ..failure import BenchError
from ..post_connection import PostConnection
from ..target import Target

_MAX_STATUS: Final = 300


class HttpCalls:
    def __init__(self, target: Target, address: str, headers: Mapping[str, str]) -> None:
        self._target = target
        self._address = address
        self._headers = headers
        self._idle: list[PostConnection] = []

    async def post(self, path: str, body: object, token: str | None) -> bytes:
        """:raises BenchError: 不是 2xx，或没有回答"""
        return await self._call(self._head("POST", path, token), msgspec.json.encode(body))

    async def get(self, path: str, token: str) -> bytes:
        """:raises BenchError: 同上"""
        return await self._call(self._head("GET", path, token), b"")

    async def close(self) -> None:
        await asyncio.gather(*(one.close() for one in self._idle))

    async def _call(self, head: bytes, body: bytes) -> bytes:
        connection = await self._connection()
        status, answer = await connection.post(head, body)
        self._idle.append(connection)
        if status >= _MAX_STATUS:
            raise BenchError(f"{status} {answer.decode(errors='replace')}")
        return answer

    async def _connection(self) -> PostConnection:
        while self._idle:
            if not (one := self._idle.pop()).stale:
                return one
            await one.close()
        return await PostConnection.open(self._target.host, self._target.port, self._address)

    def _head(self, method: str, path: str, token: str | None) -> bytes:
        lines = {
            "Host": f"{self._target.host}:{self._target.port}",
            "Content-Type": "application/json",
            **({} if token is None else {"Authorization": f"Bearer {token}"}),
            **self._headers,
        }
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"{method} {path} HTTP/1.1\r\n{text}".encode()
