"""应答的一方看见的传输：它一 ``close``，连接就丢下没读完的，内核的 RST 会赶在回答前面。"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class CourteousTransport:
    """``close`` 交给 ``part``：有礼貌而有期限；其余原样。"""

    def __init__(self, transport: asyncio.Transport, part: Callable[[], None]) -> None:
        self._transport = transport
        self._part = part
        self.write: Callable[[Any], None] = transport.write
        self.closed = False

    def close(self) -> None:
        self._part()

    def is_closing(self) -> bool:
        return self.closed or self._transport.is_closing()

    def release(self) -> None:
        """连接没有了：还在回答的写到空处；不再回指它，断开的不必等垃圾回收。"""
        self._part = self._transport.close
        self.write = _nowhere
        self.closed = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _nowhere(_data: object) -> None:
    """uvicorn 只告诉最新的一个请求连接断了，管线里前面的还在写。"""
