"""行为套件的地基：子类给出 ``serve``，每个测试自己开一个世界。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

from tests.support.edge_world import World


class EdgeHarness:
    #: 在 asyncio 自带的循环上也跑一遍。
    also_on_asyncio = False

    def serve(self, world: World) -> AbstractAsyncContextManager[None]:
        """在 ``world.port`` 上服务 ``world.manager``。"""
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def world(self, **limits: Any) -> AsyncIterator[World]:
        """``limits`` 是要改小的设置。"""
        world = World(**limits)
        sweep = asyncio.create_task(world.manager.heartbeat.run())
        try:
            async with self.serve(world):
                yield world
        finally:
            sweep.cancel()
