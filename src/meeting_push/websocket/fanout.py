"""同一帧给本节点的所有连接：分段进行，一次广播不会让别人等到它写完。"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from .connection import UserConnection

#: 一段写多少条连接；每条约 5 µs，一段 2.5 ms。
CHUNK: Final = 500


class Fanout:
    """先来的广播先发完，所以一条连接上广播的次序不变。"""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._queue: deque[tuple[bytes, Iterator[UserConnection], int | None]] = deque()

    def spread(
        self,
        frame: bytes,
        connections: Iterator[UserConnection],
        broadcast_id: int | None = None,
    ) -> None:
        """``frame`` 不占用户的 seq：耐久的广播有自己的号（``broadcast_id``），与信箱无关。"""
        self._queue.append((frame, connections, broadcast_id))
        if len(self._queue) == 1:
            self._step()

    def _step(self) -> None:
        frame, connections, broadcast_id = self._queue[0]
        now = self._clock()
        offered = 0
        for connection in islice(connections, CHUNK):
            connection.offer(frame, broadcast_id, now)
            offered += 1
        if offered < CHUNK:
            self._queue.popleft()
        if self._queue:
            asyncio.get_running_loop().call_soon(self._step)
