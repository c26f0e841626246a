"""行为套件的地基：子类给出 ``serve``，每个测试自己开一个世界。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from .world import Serve, World


class EdgeHarness:
    serve: ClassVar[Serve]
    #: 在 asyncio 自带的循环上也跑一遍。
    also_on_asyncio: ClassVar[bool] = False

    @contextlib.asynccontextmanager
    async def world(self, **limits: Any) -> AsyncIterator[World]:
        """``limits`` 是要改小的设置。"""
        world = World(**limits)
        sweep = asyncio.create_task(world.manager.heartbeat.run())
        try:
            async with type(self).serve(world):
                yield world
        finally:
            sweep.cancel()
