"""收拾死节点：租约没了而连接还在 Redis 里的，由先到者移走（CON-2）。"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from loguru import logger

from ..node_identity import NodeIdentity
from ..redis.presence import PresenceStore
from ..repeated_warning import RepeatedWarning
from ..supervision import periodically

#: 每个租期看几次。节点死后至多一个租期加一次间隔，就被收拾：30 s 的租期不到 40 s。
SWEEPS_PER_LEASE: Final = 4


class PresenceReaper:
    """每个进程都跑一个；没有主，也不用锁：每一步是一段原子的 Lua，每条连接只会被移走一次。

    所有进程都死了，就没有人收拾，也没有人读；键自己过期。
    """

    def __init__(self, store: PresenceStore, node: NodeIdentity, lease_s: float) -> None:
        self._store = store
        self._node = node
        self._interval_s = lease_s / SWEEPS_PER_LEASE
        self._deferred = RepeatedWarning("presence_reap_deferred")
        self.nodes_reaped = 0
        self.connections_reaped = 0

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.sweep, partial(asyncio.sleep, self._interval_s), self._deferred)

    async def sweep(self) -> None:
        """:raises RedisUnavailableError: 没看完；已移走的算数"""
        for node_id in await self._store.dead_nodes():
            if node_id != self._node.id:  # 自己的租约断了自己会续，不必收拾自己
                await self.reap(node_id)

    async def reap(self, node_id: str) -> None:
        """收拾一个节点直到干净；它中途活过来就停手（它会把自己的连接重写一遍）。"""
        removed, left = 0, 1
        while left:
            step = await self._store.reap(node_id)
            removed, left = removed + step.removed, step.left
            self.connections_reaped += step.removed
            if step.last:
                self.nodes_reaped += 1
                logger.bind(node=node_id, connections=removed).info("node_reaped")
