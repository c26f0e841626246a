"""被信箱上限挤出去的：记为 failed，让发送者看得见。

``deliver.lua`` 在移出的同一步里把它们写进流 ``mailbox_evictions``；这里先记录，后从流里删除，
所以进程死在哪里都不丢。几个进程同时做也无害。
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from loguru import logger

from ..isolation import Aside
from ..repeated_warning import RepeatedWarning
from ..supervision import periodically
from .redis_service import RedisService

EVICTED: Final = "mailbox_evicted"
BATCH: Final = 500

#: 把 (message_id, user_id) 里还没有结局的记为失败，附原因；幂等。见 ``DeliveryFailures.fail``。
RecordFailed = Callable[[Sequence[tuple[str, int]], str], Awaitable[object]]


class EvictionRecorder:
    def __init__(
        self,
        redis: RedisService,
        record_failed: RecordFailed,
        *,
        interval_s: float,
        aside: Aside | None = None,
    ) -> None:
        self._redis = redis
        self._record_failed = record_failed
        self._interval_s = interval_s
        self._aside = aside or Aside("evictions")
        self._deferred = RepeatedWarning("evictions_deferred")
        #: 本进程记下的条数。
        self.evicted = 0

    async def run(self) -> None:
        await periodically(self.sweep, partial(asyncio.sleep, self._interval_s), self._deferred)

    async def sweep(self) -> None:
        """记下全部积着的。"""
        lean, stream = self._redis.lean, self._redis.keys.mailbox_evictions
        while items := await lean.execute("XRANGE", stream, "-", "+", "COUNT", BATCH):
            pairs = [pair for _, flat in items if (pair := _pair(flat)) is not None]
            # 记不下的（没有这样的行、存不下的值）也从流里删：留着它，后面的永远轮不到
            await self._aside.isolate(pairs, self._record)
            self.evicted += await lean.execute("XDEL", stream, *(item[0] for item in items))
            logger.bind(evictions=len(items)).warning("mailbox_evictions_recorded")

    async def _record(self, pairs: Sequence[tuple[str, int]]) -> None:
        await self._record_failed(pairs, EVICTED)


def _pair(flat: Sequence[bytes]) -> tuple[str, int] | None:
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    try:
        return fields[b"message_id"].decode(), int(fields[b"user_id"])
    except (KeyError, ValueError):
        logger.error("eviction_malformed")  # 别人写进来的：删掉
        return None
