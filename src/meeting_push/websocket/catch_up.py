"""也许漏过的，补上：每条连接从自己的位置读起（DLV-5，LESSONS 31）。"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ..protocol.session import Phase
from .connection import UserConnection
from .opening import Opener
from .registry import Registry
from .tasks import Tasks

#: 同时重读的连接数：Redis 刚回来，不要一拥而上。
CONCURRENCY: Final = 32


class CatchUp:
    """``give_up``：补不成的，关闭它；同步，不得抛出。"""

    def __init__(
        self,
        opener: Opener,
        registry: Registry,
        tasks: Tasks,
        give_up: Callable[[UserConnection, Exception], None],
    ) -> None:
        self._opener = opener
        self._registry = registry
        self._tasks = tasks
        self._give_up = give_up

    async def everybody(self) -> None:
        """见 ``ConnectionManager.reread_all``。"""
        everybody = list(self._registry)
        for each in everybody:
            each.session.news.fall_behind()
        connections = iter(everybody)

        async def worker() -> None:
            for connection in connections:
                await self.one(connection)

        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENCY):
                group.create_task(worker())

    async def one(self, connection: UserConnection) -> None:
        phase = connection.session.phase
        if phase is Phase.LIVE:
            connection.session.hold()
            await asyncio.wait([self.start(connection)])
        else:
            connection.session.missed = True  # 正在补发的那个任务会再读一次

    def start(self, connection: UserConnection) -> asyncio.Task[None]:
        """立即返回；会话须已在 FLUSHING。"""

        async def catch_up() -> None:
            try:
                await self._opener.catch_up(connection)
            except Exception as error:  # noqa: BLE001 — 任何错都不能留下一条半开的连接
                self._give_up(connection, error)
            connection.let_go()

        task = connection.task = self._tasks.spawn(catch_up(), "ws_catch_up")
        return task
