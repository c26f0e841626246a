"""幂等键只留一天：表不随请求无休止地长（A17）。"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from ..logs import RepeatedWarning
from ..storage.messages import IdempotencyRepository
from ..supervision import periodically

#: 客户端一天之内的重试得到第一次的回答。
KEPT_MS: Final = 86_400_000
EVERY_S: Final = 60.0
#: 一步删这么多，步与步之间让别的写者先走。
STEP: Final = 1_000
_PAUSE_S: Final = 0.05


class IdempotencyPurge:
    """``run`` 须由监督者一直运行；几个进程都在做也无害。

    ``agreed``：各家的钟一致的此刻。早删一小时，那一小时的重试就成了两份（E4）。
    """

    def __init__(self, keys: IdempotencyRepository, agreed: Callable[[], Awaitable[int]]) -> None:
        self._keys = keys
        self._agreed = agreed
        self._deferred = RepeatedWarning("idempotency_purge_deferred")

    async def run(self) -> None:
        await periodically(self.purge, partial(asyncio.sleep, EVERY_S), self._deferred)

    async def purge(self) -> int:
        """删掉此刻该删的全部，返回几个。

        :raises ClockDisagreesError: 我们的钟与别家对不上；什么也没有删
        """
        before, total = await self._agreed() - KEPT_MS, 0
        while deleted := await self._keys.purge(before, STEP):
            total += deleted
            await asyncio.sleep(_PAUSE_S)
        return total
