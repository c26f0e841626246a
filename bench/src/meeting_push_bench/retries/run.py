"""依次量：空的延迟队列旁，与装着一百万条时，同样的认领与移出；再让它们全部到期；最后过期清理。"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from meeting_push.model import QueueEntry

from ..failure import BenchError
from ..measured import MeasuredReport, Measurements, measured_run
from ..progress import OnProgress, Steps
from ..redis_child import redis_cpu_s, redis_memory
from ..report import Heading
from .lab import Lab, RetriesPlan, lab

#: 没有到期的从这么久以后开始：整个测量期间都不会到期。
_FAR_MS: Final = 3_600_000
_PER_MESSAGE: Final = 1_000


def run_retries(plan: RetriesPlan, heading: Heading, steps: Steps) -> MeasuredReport:
    """:raises BenchError: 有一条没有认领到、没有移出或没有过期"""
    return measured_run(plan, _measure, heading, steps)


async def _measure(plan: RetriesPlan, found: Measurements, steps: Steps) -> None:
    async with lab(plan) as one:
        run = _Run(one, plan, found)
        with steps.step(f"accept {plan.claims:,} recipients"):
            await one.accept()
        with steps.step("claim and move, nothing else scheduled"):
            await run.round("alone", "alone", known=0)
        with steps.step(f"schedule {plan.scheduled:,}") as on_progress:
            await run.schedule(on_progress)
        with steps.step("look, nothing due"):
            await run.look()
        with steps.step(f"claim and move beside {plan.scheduled:,}"):
            await run.round("beside", f"beside {plan.scheduled:,}", known=1)
        with steps.step("claim and record"):
            await run.record(known=2)
        with steps.step(f"{plan.scheduled:,} become due"):
            await run.all_due()
        with steps.step(f"{plan.claims:,} recipients expire"):
            await run.expire()


class _Run:
    def __init__(self, one: Lab, plan: RetriesPlan, found: Measurements) -> None:
        self._lab = one
        self._plan = plan
        self._found = found

    async def round(self, name: str, label: str, known: int) -> None:
        """一轮重试：每个收件人认领一次，再从延迟队列移进投递队列。"""
        plan, lab_ = self._plan, self._lab
        await self._timed(
            f"claims_{name}", f"claims, {label}", plan.claims, lambda: lab_.claim(known)
        )
        await self._timed(f"moves_{name}", f"due moves, {label}", plan.claims, lab_.move_all)
        await self._empty_streams()

    async def record(self, known: int) -> None:
        """同样的认领，经 ``RetryService``：次数也记进 SQL。"""
        claims, lab_ = self._plan.claims, self._lab
        label = "claims with the record in SQL"
        await self._timed("claims_recorded", label, claims, lambda: lab_.claim_and_record(known))
        await lab_.move_all()
        await self._empty_streams()

    async def schedule(self, on_progress: OnProgress) -> None:
        plan, lab_ = self._plan, self._lab
        before = await redis_memory(lab_.redis)

        async def work() -> int:
            batch: list[tuple[QueueEntry, int]] = []
            for number, item in enumerate(_entries(plan, lab_.now + _FAR_MS), 1):
                batch.append(item)
                if len(batch) == plan.schedule_batch or number == plan.scheduled:
                    await lab_.queue.schedule(batch)
                    on_progress(number, plan.scheduled)
                    batch = []
            return plan.scheduled

        await self._timed("scheduled", "schedule, batches", plan.scheduled, work)
        memory = await redis_memory(lab_.redis) - before
        self._found.add("memory", f"Redis memory of {plan.scheduled:,} scheduled", memory, "B")
        each = memory / plan.scheduled
        self._found.add("memory_each", "  of each", each, "B", "lower")

    async def look(self) -> None:
        """扫一眼而没有到期的：每个进程每 200 ms 一次。"""
        start = time.perf_counter()
        for _ in range(self._plan.idle_looks):
            if await self._lab.queue.move_due():
                raise BenchError("something was due too early")
        each = (time.perf_counter() - start) / self._plan.idle_looks
        self._found.add("idle_look_us", "look, nothing due", each * 1e6, "µs", "lower")

    async def all_due(self) -> None:
        """同时到期：最坏的一次清扫。每次移出一批，别人的命令插在中间。"""
        plan, lab_ = self._plan, self._lab
        lab_.now += _FAR_MS + plan.spread_s * 1000
        longest = 0.0

        async def work() -> int:
            nonlocal longest
            moved = 0
            while True:
                start = time.perf_counter()
                if not (some := await lab_.queue.move_due()):
                    return moved
                longest = max(longest, time.perf_counter() - start)
                moved += some

        label = f"due moves, all {plan.scheduled:,} at once"
        seconds = await self._timed("all_due", label, plan.scheduled, work)
        self._found.add("all_due_s", "  all of it", seconds, "s", "lower")
        self._found.add("longest_move_ms", "  longest single call", longest * 1e3, "ms", "lower")
        await self._empty_streams()

    async def expire(self) -> None:
        lab_ = self._lab
        lab_.past_expiry()
        label = "expiry sweep: SQL, then Redis, recipients"
        await self._timed("expired", label, self._plan.claims, lab_.expiry.sweep)
        start = time.perf_counter()
        await lab_.expiry.sweep()
        idle = (time.perf_counter() - start) * 1e3
        self._found.add("idle_sweep_ms", "  nothing expired", idle, "ms", "lower")

    async def _timed(
        self, name: str, label: str, expected: int, work: Callable[[], Awaitable[int]]
    ) -> float:
        """每秒几条、两边各用多少 CPU；返回秒。

        :raises BenchError: 做到的不是 ``expected`` 条
        """
        redis = self._lab.redis
        redis_before, own_before = await redis_cpu_s(redis), time.process_time()
        start = time.perf_counter()
        done = await work()
        elapsed = time.perf_counter() - start
        own, used = time.process_time() - own_before, await redis_cpu_s(redis) - redis_before
        if done != expected:
            raise BenchError(f"{label}: {done:,} instead of {expected:,}")
        add = self._found.add
        add(f"{name}_per_s", label, done / elapsed, "/s", "higher")
        add(f"{name}_client_us", "  client CPU of each", own / done * 1e6, "µs", "lower")
        add(f"{name}_redis_us", "  Redis CPU of each", used / done * 1e6, "µs", "lower")
        return elapsed

    async def _empty_streams(self) -> None:
        """移出的已经量过；消费者不在这里（见 ``bench queue``）。"""
        while taken := await self._lab.queue.batch_dequeue(500, 0):
            await self._lab.queue.acknowledge(taken)


def _entries(plan: RetriesPlan, from_ms: int) -> Iterator[tuple[QueueEntry, int]]:
    """像重试那样：一条一个收件人。"""
    for number in range(plan.scheduled):
        entry = QueueEntry(
            message_id=f"{number // _PER_MESSAGE:026}",
            recipient_ids=(1 + number % _PER_MESSAGE,),
            priority=0,
            expires_at=4_000_000_000_000,
            attempt=1 + number % 3,
        )
        yield entry, from_ms + number * plan.spread_s * 1000 // plan.scheduled
