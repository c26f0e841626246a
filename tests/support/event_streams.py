"""读一条事件流的外来客户端：照着 HTML 标准 9.2 的格式，不用我们的代码。"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

#: 一个事件至多等这么久。
PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Event:
    """``id`` 没有写就是 None。"""

    kind: str
    id: str | None
    data: dict[str, Any]


class EventStream:
    """``comments``：见到的注释行。"""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.comments = 0
        self._lines = response.aiter_lines()

    async def read(self) -> Event:
        """下一个事件。

        :raises EOFError: 流结束了
        """
        async with asyncio.timeout(PATIENCE_S):
            kind, last, data = "message", None, list[str]()
            async for line in self._lines:
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if not line:
                    if data:
                        return Event(kind, last, json.loads("\n".join(data)))
                    kind, last = "message", None
                elif not name:
                    self.comments += 1
                elif name == "event":
                    kind = value
                elif name == "id":
                    last = value
                else:
                    assert name == "data", line
                    data.append(value)
        raise EOFError

    async def frame(self) -> dict[str, Any]:
        return (await self.read()).data

    async def messages(self, count: int) -> list[dict[str, Any]]:
        """读到 ``count`` 条消息为止，不论是单独的还是 ``batch`` 里的；别的帧不看。"""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            frame = await self.frame()
            if frame["type"] == "batch":
                found += frame["messages"]
            elif frame["type"] == "new_message":
                found.append(frame)
        return found

    async def closed(self) -> dict[str, Any]:
        """读到 ``event: close``；随后流就结束。"""
        while (event := await self.read()).kind != "close":
            pass
        with contextlib.suppress(EOFError, httpx.RemoteProtocolError):
            after = await self.read()
            raise AssertionError(f"after the close: {after}")
        return event.data


@contextlib.asynccontextmanager
async def event_stream(
    url: str, headers: Mapping[str, str] | None = None
) -> AsyncIterator[EventStream]:
    async with (
        httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(PATIENCE_S)) as client,
        client.stream("GET", url, headers=dict(headers or {})) as response,
    ):
        yield EventStream(response)
