"""邻居：照常收、照常确认的一些用户；量他们的延迟。在自己的进程里，不与捣乱者争事件循环。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from meeting_push.monitoring.latency import LatencyHistogram

from .. import load_worker
from ..accounts import Accounts
from ..arrivals import LatencyFigures
from ..load_process import LoadProcess, shared_count
from ..orders import Connect, Connected, Disconnect, Disconnected, Paced, PublishPaced, SendPaced
from ..progress import silent
from ..target import Target

_TIMEOUT_S: Final = 300.0


class Neighbours:
    def __init__(
        self, target: Target, accounts: Accounts, rate_per_s: float, load: LoadProcess
    ) -> None:
        self._target = target
        self._accounts = accounts
        self._rate_per_s = rate_per_s
        self._load = load

    async def connect(self) -> None:
        order = Connect(
            target=self._target,
            user_ids=self._accounts.recipient_ids,
            devices=1,
            kind="ack",
            frame_bytes=0,
            concurrency=8,
            heartbeat_interval_s=10,
        )
        await asyncio.to_thread(self._load.ask, order, Connected, _TIMEOUT_S, silent)

    async def disconnect(self) -> int:
        """返回被服务器断开的有几条。"""
        answer = await asyncio.to_thread(
            self._load.ask, Disconnect(), Disconnected, _TIMEOUT_S, silent
        )
        return answer.lost

    async def measure(self, seconds: float) -> dict[str, LatencyFigures]:
        """两条路各量一半时间：耐久（POST → 套接字）与瞬时（PUBLISH → 套接字）。"""
        measured = await self.histograms(seconds)
        return {path: LatencyFigures.of(latency) for path, latency in measured.items()}

    async def histograms(self, seconds: float) -> dict[str, LatencyHistogram]:
        """同 ``measure``，可以合并的。"""
        durable = await self._paced(self._send(seconds / 2))
        transient = await self._paced(self._publish(seconds / 2))
        return {"durable": durable, "transient": transient}

    async def _paced(self, order: SendPaced | PublishPaced) -> LatencyHistogram:
        answer = await asyncio.to_thread(self._load.ask, order, Paced, _TIMEOUT_S, silent)
        return answer.latency

    def _send(self, seconds: float) -> SendPaced:
        return SendPaced(
            target=self._target,
            token=self._target.token(self._accounts.sender_id),
            recipient_ids=self._accounts.recipient_ids,
            rate_per_s=self._rate_per_s,
            duration_s=seconds,
        )

    def _publish(self, seconds: float) -> PublishPaced:
        return PublishPaced(
            target=self._target,
            user_ids=self._accounts.recipient_ids,
            rate_per_s=self._rate_per_s,
            duration_s=seconds,
        )


@contextlib.asynccontextmanager
async def neighbours(
    target: Target, accounts: Accounts, rate_per_s: float
) -> AsyncIterator[Neighbours]:
    with LoadProcess(load_worker.main, shared_count()) as load:
        people = Neighbours(target, accounts, rate_per_s, load)
        await people.connect()
        yield people
