"""Redis 收得下写入吗：用自己的键真的写一遍，PING 有回答不算（B2，LESSONS 25）。"""

from __future__ import annotations

from typing import Final

from ..clock import Clock, now_ms
from ..node_identity import NodeIdentity
from .keys import DELIVERY_GROUP
from .redis_service import RedisService
from .scripts import Script

#: 键活这么久：进程死了，什么也不留下。
TTL_MS: Final = 60_000

_probe: Final = Script("probe")


class RedisProbe:
    """``delivers``：连取出、了结的命令也试（工人用得着的）。"""

    def __init__(
        self,
        redis: RedisService,
        node: NodeIdentity,
        *,
        delivers: bool,
        clock: Clock = now_ms,
    ) -> None:
        self._redis = redis
        self._node = node
        self._group = DELIVERY_GROUP if delivers else ""
        self._clock = clock
        #: Redis 的钟比我们的快多少毫秒；还没问到则 None。
        self.skew_ms: int | None = None

    async def check(self) -> None:
        """:raises RedisUnavailableError: 写不进；``cause`` 说为什么"""
        names, me = self._redis.keys, self._node.id
        keys = [names.probe(me), names.probe_queue(me)]
        asked_at = self._clock()
        seconds, micros = await _probe.run(self._redis.lean, keys, [TTL_MS, self._group])
        await self._redis.client.ping()
        halfway = (asked_at + self._clock()) // 2
        self.skew_ms = int(seconds) * 1000 + int(micros) // 1000 - halfway
