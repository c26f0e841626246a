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
        self.write = transport.write
        self.closed = False

    def close(self) -> None:
        self._part()

    def is_closing(self) -> bool:
        return self.closed or self._transport.is_closing()

    def release(self) -> None:
        """不再回指连接：断开的不必等垃圾回收。"""
        self._part = self._transport.close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
