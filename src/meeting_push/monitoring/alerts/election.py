"""集群里哪一个进程评估：够得到的几处都说轮到它，才是它；它死了，租期一过就轮到别人。

先问 Redis，再问 SQL：Redis 不在时 SQL 说了算，SQL 不在时 Redis 说了算，谁都不在，上一次的接着做：
依赖全不在时更要有人告警。
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from ...clock import Clock, now_ms
from ...errors import MeetingPushError
from ...node_identity import NodeIdentity
from ...storage.alerts import AlertStateRepository

#: 一处不回答，等这么久就当它不在。
ANSWER_S: Final = 2.0
#: 一轮至多：看、问两处、等 SQL。
ROUND_S: Final = 8.0


def lease_s(interval_s: float) -> float:
    """隔 ``interval_s`` 来续一次的租期；契约是别人 30 秒之内接手。"""
    return interval_s + ROUND_S


class TurnHolder(Protocol):
    """见 ``redis/claims.py`` 的 ``Turn``。"""

    async def take(self) -> bool: ...

    async def keep(self) -> None: ...

    async def give_back(self) -> None: ...


class Election:
    """``turn`` 的租期也是 ``lease_s``。"""

    def __init__(
        self,
        turn: TurnHolder,
        state: AlertStateRepository,
        node: NodeIdentity,
        lease_s: float,
        clock: Clock = now_ms,
    ) -> None:
        self._turn = turn
        self._state = state
        self._node = node
        self._lease_ms = int(lease_s * 1_000)
        self._clock = clock
        #: 上一次问的结果。
        self.leads = False

    async def ask(self) -> bool:
        """轮到我，或仍是我。不抛出依赖不在的错。"""
        by_redis = await _answer(self._ask_redis)
        by_sql = None if by_redis is False else await _answer(self._ask_sql)
        if by_redis is not None or by_sql is not None:
            self.leads = by_redis is not False and by_sql is not False
        return self.leads

    async def resign(self) -> None:
        """从容离开：不等租期过去。"""
        if self.leads:
            self.leads = False
            await _answer(self._give_back)

    async def _ask_redis(self) -> bool:
        mine = await self._turn.take()
        if mine:
            await self._turn.keep()
        return mine

    async def _ask_sql(self) -> bool:
        return await self._state.lease(self._node.id, self._clock(), self._lease_ms)

    async def _give_back(self) -> bool:
        await self._state.release(self._node.id)
        await self._turn.give_back()
        return True


async def _answer(ask: Callable[[], Awaitable[bool]]) -> bool | None:
    """None：它不在，没有回答。"""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await ask()
    except (MeetingPushError, TimeoutError):
        return None
