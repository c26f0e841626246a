"""攒着、成批写的循环：确认、广播的确认、重试的登记都用它。

依赖不在就留着，退避着重试；坏的一项搁置，别的照写。取消时不丢正在写的一批：写成之后才从队里
去掉，所以 ``write`` 须是幂等的。
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

from ..errors import MeetingPushError
from ..logs import RepeatedWarning, logger
from ..supervision import Aside, periodically

Row = TypeVar("Row")


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
    ) -> None:
        self._write = write
        self._deferred = deferred
        self._batch_rows = self._size = batch_rows
        self._aside = aside
        self._flush_s = flush_s
        self._rows: list[Row] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """还没写成的有几行。"""
        return len(self._rows)

    def add(self, rows: Iterable[Row]) -> None:
        self._rows += rows
        if self._rows:
            self._idle.clear()
            self._wake.set()

    async def run(self) -> None:
        """有了就等 ``flush_s``，一批一批写到没有。"""
        await periodically(self._write_batch, self._until_more, self._deferred)

    async def _until_more(self) -> None:
        if self._rows:
            return
        self._idle.set()
        await self._wake.wait()
        self._wake.clear()
        await asyncio.sleep(self._flush_s)

    async def drain(self, timeout_s: float) -> None:
        """等已登记的全部写完（关机时）；超时就放手，记下剩几行。"""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            logger.bind(writer=self._aside.name, rows=len(self._rows)).warning(
                "rows_left_at_shutdown"
            )

    async def _write_batch(self) -> None:
        batch = self._rows[: self._size]
        try:
            await self._aside.isolate(batch, self._write)
        except MeetingPushError:  # 暂时的
            self._step_aside(batch)
            raise
        del self._rows[: len(batch)]
        self._size = min(self._batch_rows, self._size * 4)

    def _step_aside(self, batch: Sequence[Row]) -> None:
        """排到最后，下次少写些：一行被别人锁着，等它的只是越来越少的几行。"""
        del self._rows[: len(batch)]
        self._rows += batch
        self._size = max(1, len(batch) // 4)
