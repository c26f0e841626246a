"""有界的先进先出队列，会结束：读套接字的一侧放，应用的一侧取。"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """满了就让放的一侧等（背压一直传到 TCP）；结束之后取的一侧得到 None。

    asyncio.Queue 到 3.13 才能结束，故自备。
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[T] = deque()
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._ended = False
        self._bounded = True

    @property
    def full(self) -> bool:
        return len(self._items) >= self._limit

    async def put(self, item: T) -> None:
        """可以取消：取消了就没有放进去。"""
        while self.full and self._bounded and not self._ended:
            self._writable.clear()
            await self._writable.wait()
        if not self._ended:
            self._items.append(item)
            self._readable.set()

    async def get(self) -> T | None:
        """可以取消：取消了就没有取走。None 表示已结束。"""
        while not self._items:
            if self._ended:
                return None
            self._readable.clear()
            await self._readable.wait()
        self._writable.set()
        return self._items.popleft()

    def unbound(self) -> None:
        """从此放的一侧不等，直到 ``clear``。"""
        self._bounded = False
        self._writable.set()

    def clear(self) -> list[T]:
        """拿走全部还没取的；重新有界。"""
        self._bounded = True
        items = list(self._items)
        self._items.clear()
        self._writable.set()
        return items

    def end(self) -> None:
        """不再收新的，也丢掉没取走的；重复调用无害。"""
        self._ended = True
        self.clear()
        self._readable.set()
