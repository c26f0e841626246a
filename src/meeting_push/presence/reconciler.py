"""对账：内存里的连接与 Redis 里记在本节点名下的，定期两边核对。"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from loguru import logger

from ..redis.presence import PresenceStore
from ..repeated_warning import RepeatedWarning
from ..supervision import periodically
from .ledger import PresenceLedger

CHUNK: Final = 500
#: 两块之间歇一歇：十万条连接约 200 块，摊在十秒里，Redis 与事件循环都无感。
PAUSE_S: Final = 0.05


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
        for chunk in self._ledger.live_chunks(CHUNK):
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
        if handled >= CHUNK:
            await asyncio.sleep(PAUSE_S)
