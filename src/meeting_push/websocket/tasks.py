"""短命的后台任务：留住引用，死因记入日志，关机时一并取消。"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from loguru import logger


class Tasks:
    """asyncio 只弱引用任务，没人拿着的会被回收；这里拿着。"""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.bind(task=task.get_name()).opt(exception=error).error("task_died")

    async def wait(self, timeout_s: float) -> None:
        """等此刻的任务自己结束，至多 ``timeout_s``；不取消。"""
        if self._running:
            await asyncio.wait(list(self._running), timeout=timeout_s)

    async def close(self) -> None:
        """取消全部并等它们退出。"""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
