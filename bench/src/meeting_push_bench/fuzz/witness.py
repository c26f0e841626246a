"""证人：同一个服务器上的一个普通用户，一直在收、一直在确认；慢了或漏了就是发现。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from meeting_push.monitoring.latency import LatencyHistogram

from ..accounts import Accounts
from ..failure import BenchError
from ..load.residents import Residents
from ..load.team import hands
from ..target import Target

RATE_PER_S: Final = 20
#: 一段：这么久的发送，然后等它全部到达；不到齐就失败。
SECTION_S: Final = 1.0


class Witness:
    """``latency``：从预定的发送时刻到帧到达，微秒。``failure`` 非空即证人受了害。"""

    def __init__(self, accounts: Accounts, residents: Residents) -> None:
        self.latency = LatencyHistogram()
        self.failure: str | None = None
        self.stopping = False
        self._accounts = accounts
        self._residents = residents

    async def live(self) -> None:
        """一段接一段，直到 ``stopping`` 或受害。"""
        while self.failure is None and not self.stopping:
            try:
                section = self._residents.post_at_pace(self._accounts, SECTION_S, RATE_PER_S)
                self.latency = self.latency.merge(await section)
            except BenchError as error:
                self.failure = error.message


@contextlib.asynccontextmanager
async def witness(target: Target, accounts: Accounts) -> AsyncIterator[Witness]:
    """期间证人在线，但要 ``living`` 才有消息。"""
    with hands(1) as [hand]:
        residents = Residents(target, hand)
        await residents.connect(accounts.recipient_ids, heartbeat_interval_s=1)
        one = Witness(accounts, residents)
        yield one
        try:
            await residents.leave()
        except BenchError as error:
            one.failure = one.failure or error.message


@contextlib.asynccontextmanager
async def living(one: Witness) -> AsyncIterator[None]:
    """期间消息不断，至少一段；离开时等手头的一段收齐，``one.latency`` 是这期间的。"""
    one.latency, one.stopping = LatencyHistogram(), False
    task = asyncio.create_task(one.live())
    try:
        yield
    finally:
        one.stopping = True
        await task
