"""一个 edge 的全程：热身、安静、十万个 case、逐项的洪水，最后看服务器还好不好。"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from itertools import count
from random import Random
from typing import Final

import msgspec

from ..accounts import Accounts, make_accounts
from ..load.result import LatencyFigures
from ..progress import OnProgress, Steps
from ..server_under_test import ServerUnderTest
from ..target import Target
from .attacker import Finding
from .cases import case_name, run_case
from .floods import FLOODS, half_open
from .plan import FuzzPlan
from .vitals import Doctor, Vitals
from .witness import Witness, living, witness


class Ordeal(msgspec.Struct, frozen=True, kw_only=True):
    """一段攻击；延迟是证人的消息从预定的发送时刻到帧到达；``peak_rss_bytes`` 是服务器的。"""

    name: str
    seconds: float
    witness: LatencyFigures
    peak_rss_bytes: int


class EdgeFuzz(msgspec.Struct, frozen=True, kw_only=True):
    """``findings`` 为空即通过。"""

    edge: str
    findings: list[str]
    ordeals: list[Ordeal]
    rss_before_bytes: int
    rss_after_bytes: int
    metrics_before: dict[str, float]
    metrics_after: dict[str, float]


#: 够了：再多也是同一件事。
MAX_FINDINGS: Final = 20


def fuzz_edge(edge: str, server: ServerUnderTest, plan: FuzzPlan, steps: Steps) -> EdgeFuzz:
    """:raises BenchError: 没有做成（起不来、注册不了）；发现不是错误，在返回值里"""
    accounts = make_accounts(server.target, 1)
    return asyncio.run(_Fuzzer(edge, server, plan, steps).run(accounts))


class _Fuzzer:
    def __init__(self, edge: str, server: ServerUnderTest, plan: FuzzPlan, steps: Steps) -> None:
        self._edge = edge
        self._server = server
        self._plan = plan
        self._steps = steps
        self._doctor = Doctor(server)
        self._findings: list[str] = []
        self._ordeals: list[Ordeal] = []

    async def run(self, accounts: Accounts) -> EdgeFuzz:
        plan, target = self._plan, self._server.target
        async with witness(target, accounts) as one:
            await self._endure(one, "quiet", asyncio.sleep(plan.quiet_s))
            with self._steps.step(f"{self._edge}: warm-up") as on_progress:
                await self._cases(-plan.warm_cases, 0, on_progress)
                # 堆第一次长到一万条连接那么大，不是泄漏；第二次还长才是
                await self._flood(half_open(target, plan, Random(plan.seed)))
            before = await self._doctor.examine()
            with self._steps.step(f"{self._edge}: {plan.cases} cases") as on_progress:
                await self._endure(one, "cases", self._cases(0, plan.cases, on_progress))
            for flood in FLOODS:
                name = flood.__name__
                with self._steps.step(f"{self._edge}: {name}"):
                    await self._endure(
                        one, name, self._flood(flood(target, plan, Random(plan.seed)))
                    )
            with self._steps.step(f"{self._edge}: recovering"):
                after = await self._aftermath(before)
        if one.failure:
            self._findings.append(f"the witness: {one.failure}")
        return EdgeFuzz(
            edge=self._edge,
            findings=self._findings,
            ordeals=self._ordeals,
            rss_before_bytes=before.rss_bytes,
            rss_after_bytes=after.rss_bytes,
            metrics_before=before.metrics,
            metrics_after=after.metrics,
        )

    async def _endure(self, one: Witness, name: str, attack: Awaitable[None]) -> None:
        """攻击期间证人照常收；记下它的延迟。"""
        start = time.monotonic()
        async with living(one), self._doctor.watching_memory() as peak:
            await attack
        latency = LatencyFigures.of(one.latency)
        self._ordeals.append(
            Ordeal(
                name=name,
                seconds=time.monotonic() - start,
                witness=latency,
                peak_rss_bytes=peak[0],
            )
        )
        if latency.p99_ms > self._plan.max_witness_p99_ms:
            self._findings.append(f"{name}: the witness waited {latency.p99_ms:.0f} ms (P99)")

    async def _cases(self, start: int, stop: int, on_progress: OnProgress) -> None:
        numbers = iter(range(start, stop))
        done = count(1)

        async def worker() -> None:
            for number in numbers:
                await self._case(number)
                finished = next(done)
                if finished % 100 == 0:
                    on_progress(finished, stop - start)
                if len(self._findings) >= MAX_FINDINGS:
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(self._plan.workers):
                group.create_task(worker())

    async def _case(self, number: int) -> None:
        seed = self._plan.seed
        try:
            await run_case(self._server.target, seed, number)
        except Finding as finding:
            name = case_name(seed, number)
            self._findings.append(f"case {number} ({name}, seed {seed}): {finding}")

    async def _flood(self, attack: Awaitable[None]) -> None:
        try:
            await attack
        except Finding as finding:
            self._findings.append(f"flood: {finding}")

    async def _aftermath(self, before: Vitals) -> Vitals:
        self._findings += await self._doctor.complaints(before)
        after = await self._doctor.examine()
        growth = after.rss_bytes - before.rss_bytes
        if growth > self._plan.max_growth_bytes:
            self._findings.append(f"the server grew by {growth / 2**20:.0f} MB")
        return after


async def rerun(target: Target, plan: FuzzPlan, number: int) -> str | None:
    """只做一个 case；返回发现，或 None。"""
    try:
        await run_case(target, plan.seed, number)
    except Finding as finding:
        return str(finding)
    return None
