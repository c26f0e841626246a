"""每秒一眼：连接、到达、延迟、各角色的 CPU 与内存、Redis、队列。"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Final, TypeVar

from meeting_push.monitoring.latency import LatencyHistogram

from ..progress import OnProgress
from ..sampler import machine_cpu_seconds
from .orders import Seen
from .processes import Census
from .redis_probe import RedisProbe
from .result import Row
from .team import Hand, Team, add_counts

PERIOD_S: Final = 1.0
#: 读一个大进程的 smaps 要停它几毫秒：不必每秒读。
MEMORY_EVERY_S: Final = 5.0
#: 这台机器上与测量无关的：它多，延迟里就有它的一份。
OTHERS: Final = "others"

_T = TypeVar("_T")


class Watch:
    """``sent``、``received``、``latency`` 都从上次 ``restart`` 起算。"""

    def __init__(self, team: Team, server: Census, load: Census, redis: RedisProbe) -> None:
        self._team = team
        self._server = server
        self._load = load
        self._redis = redis
        self._start = time.monotonic()
        self._cpu: dict[str, float] = {}
        self._cpu_at = 0.0
        self._memory: dict[str, int] = {}
        self._memory_at = float("-inf")
        self._last = 0.0
        self._received_before = 0
        self._base = 0
        #: 旁观时只看这些（其余的正忙着重连，不能打扰）。
        self.holders: Sequence[Hand] | None = None
        self.rows: list[Row] = []
        self._sent: dict[str, int] = {}
        self.received = 0
        self.sockets = 0
        self.latency = LatencyHistogram()
        self.closes: dict[str, int] = {}

    async def restart(self, holders: Sequence[Hand] | None = None) -> None:
        """新的一段；此前到达的不再算。"""
        self.holders = holders
        self._base = 0
        self._base = (await self.look()).received
        self._sent, self.received = {}, 0
        self.latency = LatencyHistogram()

    @property
    def sent(self) -> int:
        return sum(list(self._sent.values()))

    def sending(self, name: str) -> OnProgress:
        """给发送的那一方：它报已发了多少（来自别的线程）。"""

        def on_progress(done: int, _total: int) -> None:
            self._sent[name] = done

        return on_progress

    async def look(self) -> Seen:
        """取一次新的，不成行。"""
        seen = await self._team.look(self.holders)
        self.received, self.sockets = seen.received - self._base, seen.sockets
        self.latency = self.latency.merge(seen.latency)
        add_counts(self.closes, seen.closes)
        return seen

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """期间每秒一行。

        :raises BenchError: 负载进程或 Redis 没有了
        """
        await self._begin()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._run())
            try:
                yield
            finally:
                task.cancel()

    async def _begin(self) -> None:
        seen = await self.look()
        self._received_before, self._last = seen.received, time.monotonic()
        self._cpu, self._cpu_at = await self._timed(self._cpu_seconds())
        self._memory_at = float("-inf")

    async def _run(self) -> None:
        due = time.monotonic()
        while True:
            due += PERIOD_S
            await asyncio.sleep(max(0, due - time.monotonic()))
            self.rows.append(await self.row())

    async def row(self) -> Row:
        # 负载忙的时候答得晚：各量各的时刻，否则一秒的 CPU 会除以零点几秒
        (seen, now), (cpu, cpu_at), redis = await asyncio.gather(
            self._timed(self.look()), self._timed(self._cpu_seconds()), self._redis.use()
        )
        seconds, self._last = now - self._last, now
        cpu_seconds, self._cpu_at = cpu_at - self._cpu_at, cpu_at
        if now - self._memory_at >= MEMORY_EVERY_S:
            self._memory_at = now
            self._memory = await self.memory()
        used = {
            role: max(0.0, (s - self._cpu.get(role, s)) / cpu_seconds) for role, s in cpu.items()
        }
        self._cpu = cpu
        more, self._received_before = seen.received - self._received_before, seen.received
        p50, p95, p99 = _percentiles(seen.latency)
        return Row(
            at_s=round(now - self._start, 2),
            sockets=seen.sockets,
            sent=self.sent,
            received=self.received,
            received_per_s=more / seconds,
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            queued=redis.queued,
            cpu=used,
            memory=self._memory,
        )

    @staticmethod
    async def _timed(work: Awaitable[_T]) -> tuple[_T, float]:
        return await work, time.monotonic()

    async def memory(self) -> dict[str, int]:
        """角色 → 字节，含 Redis；不含负载。"""
        redis = await self._redis.use()
        return {**await asyncio.to_thread(self._server.memory_bytes), "redis": redis.memory_bytes}

    async def _cpu_seconds(self) -> dict[str, float]:
        redis = await self._redis.use()
        used = {**self._server.cpu_seconds(), **self._load.cpu_seconds(), "redis": redis.cpu_s}
        if self._server.known:
            used[OTHERS] = machine_cpu_seconds() - sum(used.values())
        return used


def _percentiles(latency: LatencyHistogram) -> tuple[float | None, float | None, float | None]:
    if not latency.count:
        return None, None, None
    p50, p95, p99 = (latency.percentile(percent) / 1000 for percent in (50, 95, 99))
    return p50, p95, p99
