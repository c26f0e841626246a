"""整台机器停住的时候：一个什么也不做、只管醒来的任务也没有醒。与服务器好不好无关。"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from .history import AnyEvent, HistoryWriter, Stood, now_ms

_TICK_S: Final = 1.0
#: 晚了这么久才算停住。
STILL_S: Final = 5.0

Span = tuple[int, int]


async def watch_stillness(history: HistoryWriter) -> None:
    """直到被取消。"""
    while True:
        since = time.monotonic()
        await asyncio.sleep(_TICK_S)
        late_s = time.monotonic() - since - _TICK_S
        if late_s >= STILL_S:
            history.write(Stood(at=now_ms(), for_ms=int(late_s * 1000)))


class Stillness:
    def __init__(self, events: Sequence[AnyEvent]) -> None:
        stood = [event for event in events if isinstance(event, Stood)]
        self.spans: list[Span] = [(each.at - each.for_ms, each.at) for each in stood]

    def moving(self, start: int, end: int) -> int:
        """``start`` 到 ``end`` 之间，走着的几毫秒。"""
        still = sum(max(0, min(end, b) - max(start, a)) for a, b in self.spans)
        return end - start - still
