"""邻居：照常收、照常确认的一些用户；量他们的延迟。"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from meeting_push.monitoring.latency import LatencyHistogram

from ..accounts import Accounts
from ..load.residents import Residents
from ..load.result import LatencyFigures
from ..load.team import hands
from ..target import Target


@dataclass(frozen=True, slots=True)
class Neighbours:
    accounts: Accounts
    rate_per_s: float
    residents: Residents

    async def measure(self, seconds: float) -> dict[str, LatencyFigures]:
        """两条路各量一半时间：耐久（POST → 套接字）与瞬时（PUBLISH → 套接字）。"""
        measured = await self.histograms(seconds)
        return {path: LatencyFigures.of(latency) for path, latency in measured.items()}

    async def histograms(self, seconds: float) -> dict[str, LatencyHistogram]:
        """同 ``measure``，可以合并的。"""
        accounts, rate, half = self.accounts, self.rate_per_s, seconds / 2
        durable = await self.residents.post_at_pace(accounts, half, rate)
        transient = await self.residents.publish_at_pace(accounts.recipient_ids, half, rate)
        return {"durable": durable, "transient": transient}


@contextlib.asynccontextmanager
async def neighbours(
    target: Target, accounts: Accounts, rate_per_s: float
) -> AsyncIterator[Neighbours]:
    """:raises BenchError: 有的没连上，或被服务器断开了"""
    with hands(1) as [hand]:
        residents = Residents(target, hand)
        await residents.connect(accounts.recipient_ids, heartbeat_interval_s=10)
        yield Neighbours(accounts, rate_per_s, residents)
        await residents.leave()
