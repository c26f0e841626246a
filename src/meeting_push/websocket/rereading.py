"""也许漏过了：总线断过、Redis 丢过数据，本节点的每条连接都重读一遍。"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from loguru import logger

from ..errors import MeetingPushError
from ..repeated_warning import RepeatedWarning
from .manager import ConnectionManager
from .patience import patiently

#: 重订阅之后 Redis 又不在：过这么久再试着重读。
REREAD_RETRY_S: Final = 0.5
#: 等对账者换代次至多这么久：SQL 也不在，就先读再说，代价是多一帧 ``resync``。
SETTLE_PATIENCE_S: Final = 15.0


class Rereading:
    """``wanted`` 一置位就重读：先广播的日志。``settled``：见 ``Reconciler.settled``。"""

    def __init__(
        self,
        wanted: asyncio.Event,
        manager: ConnectionManager,
        refresh_broadcasts: Callable[[], Awaitable[None]],
        settled: Callable[[], Awaitable[bool]],
    ) -> None:
        self._wanted = wanted
        self._manager = manager
        self._refresh = refresh_broadcasts
        self._settled = settled
        self._log_not_read = RepeatedWarning("broadcast_log_not_read")

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._wait_settled()
                if await self._refresh_broadcasts():
                    await self._manager.reread_all()
            except Exception:
                self._wanted.set()  # 监督者会重启这个循环：没轮到的连接不能就此不补
                raise

    async def _wait_settled(self) -> None:
        """Redis 丢了数据，等换了代次再读：每台设备一帧 ``resync``，不是先后两帧（E12）。"""
        try:
            async with asyncio.timeout(SETTLE_PATIENCE_S):
                while not await patiently(self._settled):  # noqa: ASYNC110 — 在 Redis 里，没有事件
                    await asyncio.sleep(REREAD_RETRY_S)
        except (TimeoutError, MeetingPushError) as error:
            logger.bind(error=type(error).__name__).warning("reread_before_generation")

    async def _refresh_broadcasts(self) -> bool:
        """False：Redis 又不在了，稍后再来。"""
        try:
            await self._refresh()
        except MeetingPushError as error:
            self._log_not_read.say(code=error.code, cause=error.cause)
            if error.temporary:
                loop = asyncio.get_running_loop()
                loop.call_later(REREAD_RETRY_S, self._wanted.set)
                return False
        return True
