"""在线账的打理：死节点留下的由先到者移走（CON-2）；内存里的连接与 Redis 里记在本节点名下的，
定期两边核对。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from ..logs import RepeatedWarning, logger
from ..node_identity import NodeIdentity
from ..redis.presence import PresenceStore, Turn
from ..supervision import periodically
from .ledger import PresenceLedger

#: 上线、下线了的人告诉谁；不等它。
TurnSink = Callable[[Sequence[Turn]], None]


def unheard(_turns: Sequence[Turn]) -> None:
    """没有人要知道。"""


#: 每个租期看几次。节点死后至多一个租期加一次间隔，就被收拾：30 s 的租期不到 40 s。
SWEEPS_PER_LEASE: Final = 4


class PresenceReaper:
    """每个进程都跑一个；没有主，也不用锁：每一步是一段原子的 Lua，每条连接只会被移走一次。

    所有进程都死了，就没有人收拾，也没有人读；键自己过期。
    """

    def __init__(
        self, store: PresenceStore, node: NodeIdentity, lease_s: float, turned: TurnSink = unheard
    ) -> None:
        """``turned``：由此下线了的人告诉它。"""
        self._store = store
        self._node = node
        self._turned = turned
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
            self._turned(step.turned)
            if step.last:
                self.nodes_reaped += node_id != self._node.id  # 自己从容离开的不算
                logger.bind(reaped=node_id, connections=removed).info("node_reaped")


RECONCILE_CHUNK: Final = 500
#: 两块之间歇一歇：十万条连接约 200 块，摊在十秒里，Redis 与事件循环都无感。
RECONCILE_PAUSE_S: Final = 0.05


class PresenceReconciler:
    """只读地比较，差异记到账上，由写入循环去改。"""

    def __init__(self, store: PresenceStore, ledger: PresenceLedger, interval_s: float) -> None:
        self._store = store
        self._ledger = ledger
        self._interval_s = interval_s
        self._deferred = RepeatedWarning("presence_sweep_deferred")
        self.sweeps = 0
        self.checked = 0
        self.rewritten = 0
        self.removed = 0

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        pause = partial(asyncio.sleep, self._interval_s)
        await pause()
        await periodically(self.sweep, pause, self._deferred)

    async def sweep(self) -> None:
        """对一遍账。

        :raises RedisUnavailableError: 没对完；已发现的差异已记账
        """
        before = self.rewritten + self.removed
        await self._find_missing()
        await self._find_strangers()
        self.sweeps += 1
        if found := self.rewritten + self.removed - before:
            logger.bind(differences=found).warning("presence_reconciled")

    async def _find_missing(self) -> None:
        """本节点有而 Redis 没有的：重写。"""
        for chunk in self._ledger.live_chunks(RECONCILE_CHUNK):
            self.checked += len(chunk)
            missing = await self._store.missing(chunk)
            still = [each for each in missing if self._ledger.is_settled(each)]
            self._ledger.mark(still)
            self.rewritten += len(still)
            await self._pause(len(chunk))

    async def _find_strangers(self) -> None:
        """Redis 有而本节点没有的：移走。"""
        async for page in self._store.indexed():
            strangers = {each for each in page if self._ledger.is_unknown(each)}
            self._ledger.expel(strangers)
            self.removed += len(strangers)
            await self._pause(len(page))

    async def _pause(self, handled: int) -> None:
        if handled >= RECONCILE_CHUNK:
            await asyncio.sleep(RECONCILE_PAUSE_S)
