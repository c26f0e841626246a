"""节点的听力：金丝雀听不到时怎么补救。边缘与服务互不认识，在这里相接。"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ..node.canary import Canary, Ear
from ..protocol.codes import CloseCode
from ..redis.redis_service import RedisService
from ..redis.subscriber import Subscriber
from ..settings import Settings
from .departure import window_s
from .manager import ConnectionManager

#: 聋了，重新订阅也没用。
DEAF: Final = "deaf"


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
        #: 此刻不能接待的原因。
        self._reasons: set[str] = set()
        self.canary = Canary(
            redis,
            manager.node,
            interval_s=settings.canary_interval_s,
            deaf_s=settings.canary_deaf_s,
            ear=Ear(
                connected=lambda: subscriber.connected,
                resubscribe=subscriber.reset,
                reread=reread,
                give_up=lambda: self.give_up(DEAF),
                recover=lambda: self.recover(DEAF),
            ),
        )

    def leave(self) -> None:
        """关机开始：门由关机的人把着，这里不再开关。"""
        self._leaving = True

    def give_up(self, why: str) -> None:
        """以 4007 请走客户端，不再接受；``why`` 好了要 ``recover``。"""
        self._reasons.add(why)
        if not self._leaving:
            self._manager.refuse(CloseCode.NODE_UNHEALTHY)
            self._lost.set()

    def recover(self, why: str) -> None:
        """``why`` 好了；没有别的原因就重新接受。"""
        self._reasons.discard(why)
        if self._reasons:
            return
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
