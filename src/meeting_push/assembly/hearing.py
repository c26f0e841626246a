"""节点的听力：金丝雀听不到时怎么补救。边缘与服务互不认识，在这里相接。"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..protocol.codes import CloseCode
from ..redis.subscriber import Subscriber
from ..services.canary import Canary, Ear
from ..services.redis_service import RedisService
from ..settings import Settings
from ..websocket.departure import window_s
from ..websocket.manager import ConnectionManager


class NodeHearing:
    """聋了先重新订阅；没用就以 4007 请走客户端，直到又听得见。

    ``reread`` 让别人去重读本节点所有用户的信箱。``run`` 须由监督者一直运行。
    """

    def __init__(
        self,
        redis: RedisService,
        subscriber: Subscriber,
        manager: ConnectionManager,
        settings: Settings,
        reread: Callable[[], None],
    ) -> None:
        self._manager = manager
        self._window_s = settings.drain_window_s
        self._lost = asyncio.Event()
        self._leaving = False
        self.canary = Canary(
            redis,
            manager.node,
            interval_s=settings.canary_interval_s,
            deaf_s=settings.canary_deaf_s,
            ear=Ear(
                connected=lambda: subscriber.connected,
                resubscribe=subscriber.reset,
                reread=reread,
                give_up=self._give_up,
                recover=self._recover,
            ),
        )

    def leave(self) -> None:
        """关机开始：门由关机的人把着，这里不再开关。"""
        self._leaving = True

    def _give_up(self) -> None:
        if not self._leaving:
            self._manager.refuse(CloseCode.NODE_UNHEALTHY)
            self._lost.set()

    def _recover(self) -> None:
        self._lost.clear()
        if not self._leaving:
            self._manager.refuse(None)

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        while True:
            await self._lost.wait()
            self._lost.clear()
            sockets = self._manager.statistics().sockets
            await self._manager.evacuate(
                CloseCode.NODE_UNHEALTHY, window_s(sockets, self._window_s)
            )
