"""攒着、成批写的循环：确认、广播的确认、重试的登记都用它。

依赖不在就留着，退避着重试；坏的一项搁置，别的照写。取消时不丢正在写的一批：没有写成的放回队里，
所以 ``write`` 须是幂等的。

几道（``lanes``）同时各写一批：一批里 Redis、SQL、Redis 是先后的三步，一步等着，另一道用着另一样。
别的道等攒够了才来：没有积压时一批一批地写，前一批写着，后来的正好凑成下一批。

一批的代价多半与几行无关，所以可以隔开（``pace_s``）：闲了之后的头一批照旧立即写，此后的两批至少隔这么久。
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Generic, TypeVar

from ..errors import MeetingPushError
from ..logs import RepeatedWarning, logger
from ..supervision import Aside, periodically

Row = TypeVar("Row")

#: 攒着这么多行就是积压：别的道也来。一批的代价多半与行数无关，每秒几百行时两道各写一半就是两份。
CROWD_ROWS: Final = 200


class BatchWriter(Generic[Row]):
    """``run`` 须由监督者一直运行；写不成时说 ``deferred``。"""

    def __init__(
        self,
        write: Callable[[Sequence[Row]], Awaitable[None]],
        *,
        deferred: RepeatedWarning,
        batch_rows: int,
        aside: Aside,
        flush_s: float = 0,
        lanes: int = 1,
        pace_s: float = 0,
    ) -> None:
        self._write = write
        self._deferred = deferred
        self._batch_rows = self._size = batch_rows
        self._many = min(batch_rows, CROWD_ROWS)
        self._aside = aside
        self._flush_s = flush_s
        self._pace_s = pace_s
        #: 最近一批何时开始写。
        self._began = float("-inf")
        self._lanes = lanes
        self._rows: list[Row] = []
        self._in_hand = 0
        self._wake, self._crowd = asyncio.Event(), asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """还没写成的有几行。"""
        return len(self._rows) + self._in_hand

    def add(self, rows: Iterable[Row]) -> None:
        woken = bool(self._rows)  # 已有在等的，就都醒着
        self._rows += rows
        if not self._rows:
            return
        if not woken:
            self._idle.clear()
            self._wake.set()
        if len(self._rows) >= self._many:
            self._crowd.set()

    async def run(self) -> None:
        """有了就等 ``flush_s``，一批一批写到没有。"""
        async with asyncio.TaskGroup() as lanes:
            lanes.create_task(self._lane(self._until_more))
            for _ in range(1, self._lanes):
                lanes.create_task(self._lane(self._until_crowded))

    async def _lane(self, pause: Callable[[], Awaitable[None]]) -> None:
        await pause()
        await periodically(self._write_batch, pause, self._deferred)

    async def _until_more(self) -> None:
        flush_s = 0.0
        if not self._rows:
            self._note_idle()
            self._wake.clear()  # 别的道取走了的，不算醒过
            await self._wake.wait()
            flush_s = self._flush_s
        now = asyncio.get_running_loop().time()
        wait_s = max(flush_s, self._began + self._pace_s - now)
        if wait_s > 0 and len(self._rows) < self._many:  # 够一批了就不等
            await asyncio.sleep(wait_s)

    async def _until_crowded(self) -> None:
        if len(self._rows) >= self._many:
            return
        self._note_idle()
        self._crowd.clear()
        await self._crowd.wait()

    def _note_idle(self) -> None:
        if not (self._rows or self._in_hand):
            self._idle.set()

    async def drain(self, timeout_s: float) -> None:
        """等已登记的全部写完（关机时）；超时就放手，记下剩几行。"""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            logger.bind(writer=self._aside.name, rows=len(self)).warning("rows_left_at_shutdown")

    async def _write_batch(self) -> None:
        batch, self._rows = self._rows[: self._size], self._rows[self._size :]
        if not batch:
            return
        self._in_hand += len(batch)
        self._began = asyncio.get_running_loop().time()
        try:
            await self._aside.isolate(batch, self._write)
        except BaseException as error:
            self._rows += batch  # 排到最后：一行被别人锁着，别的先写
            if isinstance(error, MeetingPushError):  # 暂时的：下次少写些，等它的只是越来越少的几行
                self._size = max(1, len(batch) // 4)
            raise
        finally:
            self._in_hand -= len(batch)
        self._size = min(self._batch_rows, self._size * 4)
