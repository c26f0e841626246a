"""同一帧给本节点的所有连接：分段进行，一次广播不会让别人等到它写完。

一圈走遍所有人。走的时候新来的广播等着，下一圈一起带走：忙不过来时，一人一次系统调用写出几帧。
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

from loguru import logger

from ..protocol.envelope import FrameRun, PushKey
from .connection import UserConnection

#: 一段写多少条连接；每条约 5 µs，一段 2.5 ms。
CHUNK: Final = 500
#: 一圈至多带走这么多字节（至少一帧）：再多，一次写会装不进套接字的缓冲。
LAP_BYTES: Final = 32 * 1024


class Fanout:
    """先来的广播先发完，所以一条连接上广播的次序不变。``everyone`` 每次遍历是此刻的快照。"""

    def __init__(self, everyone: Iterable[UserConnection], clock: Callable[[], int]) -> None:
        self._everyone = everyone
        self._clock = clock
        self._waiting: deque[tuple[bytes, PushKey]] = deque()
        self._lap: Iterator[UserConnection] | None = None
        self._run: FrameRun

    def spread(self, frame: bytes, broadcast_id: int | None = None) -> None:
        """``frame`` 不占用户的 seq：耐久的广播有自己的号（``broadcast_id``），与信箱无关。"""
        self._waiting.append((frame, broadcast_id))
        if self._lap is None:
            self._step()

    def _step(self) -> None:
        if self._lap is None:
            self._lap, self._run = iter(self._everyone), FrameRun.of(self._take())
        try:
            if self._offer(islice(self._lap, CHUNK)) < CHUNK:
                self._lap = None
        except Exception as error:  # noqa: BLE001 — 一条坏连接不许让广播从此停下：从下一条接着走
            logger.opt(exception=error).error("fanout_failed")
        if self._lap is not None or self._waiting:
            asyncio.get_running_loop().call_soon(self._step)

    def _take(self) -> list[tuple[bytes, PushKey]]:
        taken = [self._waiting.popleft()]
        size = len(taken[0][0])
        while self._waiting and (size := size + len(self._waiting[0][0])) <= LAP_BYTES:
            taken.append(self._waiting.popleft())
        return taken

    def _offer(self, connections: Iterable[UserConnection]) -> int:
        run, now, offered = self._run, self._clock(), 0
        [(frame, key), *more] = run.frames
        for connection in connections:
            if more:
                connection.offer_run(run, now)
            else:
                connection.offer(frame, key, now)
            offered += 1
        return offered
