"""所有进程合计的次数：在 Redis 里数；Redis 不在就只数自己的。"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ..clock import Clock, now_ms
from ..errors import RateLimitedError, RedisUnavailableError
from ..redis.link import Argument
from ..redis.redis_service import RedisService, courtesy
from .attempt_window import AttemptWindow


class SharedWindow:
    """每个键在 ``window_ms`` 之内最多 ``limit`` 次。

    本进程的是滑动窗口；Redis 里的从第一次算起，到期一起忘掉（两条命令，不必脚本）。
    ``redis`` 为 None：只数本进程。
    """

    def __init__(
        self,
        name: str,
        limit: int,
        window_ms: int,
        redis: RedisService | None = None,
        clock: Clock = now_ms,
    ) -> None:
        self._name = name
        self._limit = limit
        self._window_ms = window_ms
        self._redis = redis
        self._local = AttemptWindow(limit, window_ms, clock=clock)

    async def check(self, key: str) -> None:
        """:raises RateLimitedError: 已满；``retry_after_s`` 秒后再来"""
        self._local.check(key)
        count, ttl_ms = await self._ask(key, ("GET",), ("PTTL",))
        self._refuse_from(int(count or 0), ttl_ms)

    async def is_full(self, key: str) -> bool:
        try:
            await self.check(key)
        except RateLimitedError:
            return True
        return False

    async def reserve(self, key: str) -> None:
        """先记一次再说；满了则拒绝。并发的调用至多有 ``limit`` 个通过。

        :raises RateLimitedError: 已满
        """
        self._local.check(key)
        count, ttl_ms = await self._count(key)
        self._refuse_from(count - 1, ttl_ms)

    async def count(self, key: str) -> None:
        await self._count(key)

    async def forget(self, key: str) -> None:
        self._local.forget(key)
        await self._ask(key, ("DEL",))

    async def _count(self, key: str) -> tuple[int, int]:
        self._local.count(key)
        count, ttl_ms = await self._ask(key, ("INCR",), ("PTTL",))
        if ttl_ms < 0:  # 新的；或上次死在两步之间
            await self._ask(key, ("PEXPIRE", self._window_ms))
            ttl_ms = self._window_ms
        return count or 0, ttl_ms

    def _refuse_from(self, count: int, ttl_ms: int) -> None:
        if count >= self._limit:
            raise RateLimitedError("too many attempts", retry_after_s=max(1, -(-ttl_ms // 1000)))

    async def _ask(self, key: str, *commands: Sequence[Argument]) -> Sequence[Any]:
        """对这个键的几条命令；Redis 不在则当作没有数过。"""
        nothing = (None, 0)
        if self._redis is None:
            return nothing
        # 键里有用户名与地址：只留散列
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        name = self._redis.keys.attempts(self._name, digest)
        try:
            return await courtesy(
                self._redis.lean.execute_many([(verb, name, *rest) for verb, *rest in commands])
            )
        except RedisUnavailableError:
            return nothing
