"""一个 Redis 只服务一个数据库：陌生的那个等着，直到先来的一个节点也不剩（E5）。

两个数据库共用一个 Redis，会互相当作“Redis 丢了数据”而轮流重来，还会把这边 5 号的消息推给那边的
5 号。所以启动时先占住；先来的都死了，才接手：清掉它留下的，换新的一代，从自己的记录重新投递。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from ulid import ULID

from ..errors import MeetingPushError, UnavailableError
from ..logs import RepeatedWarning, logger
from ..node_identity import NodeIdentity
from ..redis.claims import RedisClaim
from ..storage.fleet import GenerationRepository
from ..supervision import periodically

#: 新的库还没有名字时，等兄弟进程把它写下。
SIBLING_S: Final = 0.1
SIBLING_TRIES: Final = 20


class DatabaseClaim:
    """``run`` 须由监督者一直运行；``lost`` 在 Redis 被另一个数据库接手之后置位，不再放开。"""

    def __init__(
        self,
        node: NodeIdentity,
        claim: RedisClaim,
        generations: GenerationRepository,
        lease_s: float,
        new_id: Callable[[], object] = ULID,
    ) -> None:
        self._node = node
        self._claim = claim
        self._generations = generations
        self._lease_s = lease_s
        self._new_id = new_id
        self._not_renewed = RepeatedWarning("database_claim_deferred")
        self.database_id = ""
        self.lost = asyncio.Event()

    async def start(self) -> None:
        """占住，必要时接手。

        :raises UnavailableError: Redis 正服务着另一个数据库（``another_database``）
        """
        for _ in range(SIBLING_TRIES):
            known = await self._generations.identity()
            self.database_id = known or self.database_id or str(self._new_id())
            if await self._held():
                break
            if known is not None:
                raise _stranger()
            await asyncio.sleep(SIBLING_S)  # 新的库：也许是兄弟进程正在给它起名
        else:
            raise _stranger()
        served = await self._claim.served()
        if not served:
            await self._claim.mark(self.database_id)
        elif served != self.database_id:
            await self._take_over(served)

    async def _take_over(self, served: str) -> None:
        row = await self._generations.read()
        known = row.generation if row is not None else 0
        logger.bind(database=self.database_id, instead_of=served).warning("redis_taken_over")
        if not await self._claim.take_over(self.database_id, self._node.id, known):
            raise UnavailableError("another node is taking over this Redis", cause="taking_over")

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        pause = partial(asyncio.sleep, self._lease_s / 4)
        await periodically(self._renew, pause, self._not_renewed)

    async def _renew(self) -> None:
        if not await self._held():
            self.lost.set()
            logger.bind(database=self.database_id).error("redis_serves_another_database")
            await asyncio.Event().wait()
        await self._claim.mark(self.database_id)  # Redis 也许清空过

    async def check(self) -> None:
        """健康检查。

        :raises UnavailableError: 被另一个数据库接手了
        """
        if self.lost.is_set():
            raise _stranger()

    async def stop(self) -> None:
        """放开；可重复调用。"""
        try:
            await self._claim.release(self._node.id)
        except MeetingPushError as error:  # 租约自会到期
            logger.bind(code=error.code, cause=error.cause).debug("database_claim_left")

    async def _held(self) -> bool:
        lease_ms = int(self._lease_s * 1000)
        owner = await self._claim.hold(self.database_id, self._node.id, lease_ms)
        return owner == self.database_id


def _stranger() -> UnavailableError:
    return UnavailableError(
        "this Redis serves another database; use another Redis, another MEETING_PUSH_KEY_PREFIX,"
        " or the same MEETING_PUSH_DATABASE_URL",
        cause="another_database",
    )
