"""搭台，装满信箱，先单独、再一起回来，收起。"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import uvloop

from meeting_push.errors import MeetingPushError
from meeting_push.monitoring.latency import LatencyHistogram

from ..accounts import Accounts
from ..disturbance.neighbours import Neighbours, neighbours
from ..failure import BenchError
from ..load.orders import Leave, Left
from ..load.population import populate
from ..load.redis_probe import RedisProbe, redis_probe
from ..load.servers import Options, Servers, servers
from ..load_process import LoadProcess
from ..measured import MeasuredReport, Measurements
from ..open_files import allow_sockets
from ..progress import OnProgress, Steps
from ..report import Heading
from .fill import fill
from .plan import FlushPlan
from .returning import Return, Returned, main

_TIMEOUT_S: Final = 1_800.0
#: 确认这么久没有一条写进记录，就是不会写了。
_GRACE_S: Final = 60.0
_PATHS: Final = (("durable", "POST to socket"), ("transient", "PUBLISH to socket"))

Latencies = dict[str, LatencyHistogram]


def run_flush(plan: FlushPlan, heading: Heading, steps: Steps) -> MeasuredReport:
    """:raises BenchError: 没有做成；有一条没到，或连接被服务器关了"""
    allow_sockets(plan.users + plan.neighbours)
    found = Measurements()
    with servers(0, Options()) as under_test:
        holder = LoadProcess(main)
        with holder:
            try:
                uvloop.run(_measure(plan, under_test, holder, found, steps))
            except* MeetingPushError as failures:
                raise BenchError(str(failures.exceptions[0])) from None
    return MeasuredReport.of(heading, plan, found)


async def _measure(
    plan: FlushPlan,
    under_test: Servers,
    holder: LoadProcess,
    found: Measurements,
    steps: Steps,
) -> None:
    count = plan.neighbours + plan.alone + plan.users
    async with redis_probe(under_test.api) as probe:
        with steps.step("accounts") as on_progress:
            people = await populate(under_test, count, count, on_progress)
        near, rest = people.account_ids[: plan.neighbours], people.account_ids[plan.neighbours :]
        accounts = Accounts(people.sender_id, near)
        run = _Run(plan, under_test, holder, probe, found)
        with steps.step(f"fill {len(rest):,} mailboxes") as on_progress:
            await run.fill(people.sender_id, rest, on_progress)
        async with neighbours(under_test.api, accounts, plan.rate_per_s) as others:
            await others.measure(plan.warm_up_s)
            with steps.step("the others, before"):
                before = await others.histograms(plan.quiet_s)
            with steps.step(f"{plan.alone} return alone"):
                await run.alone(rest[: plan.alone])
            with steps.step(f"{plan.users:,} return at once") as on_progress:
                during = await run.together(rest[plan.alone :], others, on_progress)
            with steps.step("the others, after"):
                after = await others.histograms(plan.quiet_s)
            run.neighbours({"before": before, **during, "after": after})
            await run.leave()


@dataclass(frozen=True, slots=True)
class _Run:
    plan: FlushPlan
    servers: Servers
    holder: LoadProcess
    probe: RedisProbe
    found: Measurements

    async def fill(self, sender_id: int, users: Sequence[int], on_progress: OnProgress) -> None:
        start = time.monotonic()
        await fill(self.servers.api, sender_id, users, self.plan, self.probe, on_progress)
        elapsed = time.monotonic() - start
        total = len(users) * self.plan.messages
        add = self.found.add
        add("filled", "messages in mailboxes", total)
        add("filled_per_s", "POST to mailbox, nobody online", total / elapsed, "/s", "higher")
        add("redis_memory", "memory of Redis then", (await self.probe.use()).memory_bytes, "B")

    async def alone(self, users: Sequence[int]) -> None:
        whole = LatencyHistogram()
        for user_id in users:
            whole = whole.merge((await self._return([user_id])).whole)
            await self.probe.all_recorded([user_id], _GRACE_S)
        label = f"one user alone, {self.plan.messages:,} messages"
        self._seconds("alone", label, whole, (50, 100))

    async def together(
        self, users: Sequence[int], others: Neighbours, on_progress: OnProgress
    ) -> dict[str, Latencies]:
        """返回别人的延迟：补发的时候，与此后确认还在写进记录的时候。"""
        add, census = self.found.add, self.servers.census
        add(
            "memory_before", "memory of the server before", sum(census.memory_bytes().values()), "B"
        )
        census.reset_peaks()
        phases: dict[str, Latencies] = {"flush": {}}
        work = asyncio.create_task(self._come_back(users, on_progress, phases))
        try:
            while not work.done():
                phase = list(phases)[-1]
                latencies = await others.histograms(self.plan.window_s)
                phases[phase] = _merged(phases[phase], latencies)
            await work
        finally:
            work.cancel()
        add("memory_peak", "  at its peak (RSS)", census.peak_bytes(), "B", "lower")
        return phases

    async def _come_back(
        self, users: Sequence[int], on_progress: OnProgress, phases: dict[str, Latencies]
    ) -> None:
        """都齐了就往 ``phases`` 里添下一段。"""
        start, used = time.monotonic(), self._cpu()
        redis_used = (await self.probe.use()).cpu_s
        answer = await self._return(users, on_progress)
        redis_used = (await self.probe.use()).cpu_s - redis_used
        self._flushed(answer, self._cpu() - used, redis_used)
        phases["acks"] = {}
        await self.probe.all_recorded(users, _GRACE_S)
        recorded_s = time.monotonic() - start
        self.found.add("recorded_s", "until every ack was recorded", recorded_s, "s", "lower")
        acks = self.plan.total / recorded_s
        self.found.add("acks_per_s", "  acks recorded", acks, "/s", "higher")

    async def leave(self) -> None:
        gone = await asyncio.to_thread(self.holder.ask, Leave(), Left, _TIMEOUT_S, _quiet)
        self.found.add("closed", "sockets closed by the server", gone.lost, "", "lower", goal=0)

    def neighbours(self, phases: dict[str, Latencies]) -> None:
        for path, label in _PATHS:
            for phase, latencies in phases.items():
                latency = latencies.get(path, LatencyHistogram())
                if latency.count:
                    p95 = latency.percentile(95) / 1000
                    name = f"{path}_{phase}_p95_ms"
                    self.found.add(name, f"others, {label} P95: {phase}", p95, "ms", "lower")

    async def _return(
        self, users: Sequence[int], on_progress: OnProgress | None = None
    ) -> Returned:
        order = Return(
            target=self.servers.gateway,
            user_ids=list(users),
            expected=self.plan.messages,
            heartbeat_interval_s=self.plan.heartbeat_interval_s,
        )
        return await asyncio.to_thread(
            self.holder.ask, order, Returned, _TIMEOUT_S, on_progress or _quiet
        )

    def _flushed(self, answer: Returned, used: float, redis_used: float) -> None:
        add, total, seconds = self.found.add, self.plan.total, answer.elapsed_s
        add("flushed_per_s", "flushed, all sockets", answer.messages / seconds, "/s", "higher")
        add("elapsed_s", f"  {total:,} messages in", seconds, "s", "lower")
        add("bytes_per_s", "  bytes a second", answer.bytes / seconds, "B", "higher")
        add("per_frame", "  messages in a frame", answer.messages / answer.frames)
        self._seconds("user", "one of them, dial to last message", answer.whole, (50, 95, 100))
        self._seconds("welcome", "  dial to welcome", answer.welcome, (95,))
        add("refused", "  turned away (4007), dialled again", answer.refused, "", "lower")
        add("missing", "missing", total - answer.messages, "", "lower", goal=0)
        add("repeated", "came twice", answer.repeated, "", "lower", goal=0)
        add("disordered", "out of order", answer.disordered, "", "lower", goal=0)
        add("server_us", "CPU of each message: server", used / total * 1e6, "µs", "lower")
        add("redis_us", "  Redis", redis_used / total * 1e6, "µs", "lower")

    def _cpu(self) -> float:
        return sum(self.servers.census.cpu_seconds().values())

    def _seconds(
        self, name: str, label: str, latency: LatencyHistogram, percents: Sequence[int]
    ) -> None:
        for percent in percents:
            what = "longest" if percent == 100 else f"P{percent}"
            value = latency.percentile(percent) / 1e6
            self.found.add(f"{name}_p{percent}_s", f"{label}: {what}", value, "s", "lower")


def _merged(one: Latencies, other: Latencies) -> Latencies:
    nothing = LatencyHistogram()
    return {path: one.get(path, nothing).merge(latency) for path, latency in other.items()}


def _quiet(done: int, total: int) -> None:
    """单独回来的太快，不必报。"""
