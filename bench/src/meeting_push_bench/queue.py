"""profile ``queue``：投递队列一进一出每秒多少条；只有队列，没有投递。

一个进程、一条精简连接、一个真的 Redis 子进程（AOF everysec，与内嵌运行时相同）。
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Iterator
from typing import Final

import msgspec
import uvloop
from rich.table import Table

from meeting_push.model import QueueEntry
from meeting_push.queue.message_queue import MessageQueue
from meeting_push.redis.redis_service import RedisService
from meeting_push.supervision import Aside

from .progress import Steps
from .redis_child import redis_child, redis_cpu_s
from .report import Heading

_ROWS: Final = (
    ("enqueue", "in, batches"),
    ("enqueue_again", "in, all of them there already"),
    ("take", "out: take and acknowledge, batches"),
    ("schedule", "schedule for later, batches"),
    ("move_due", "move what is due into the queue"),
    ("one_by_one", "in, take, acknowledge, one at a time"),
)


class QueuePlan(msgspec.Struct, frozen=True, kw_only=True):
    """``entries`` 条，每条 ``recipients`` 个收件人；``singles`` 条逐条走一遍。"""

    repeats: int = 3
    entries: int = 100_000
    recipients: int = 1
    enqueue_batch: int = 500
    take_batch: int = 100
    singles: int = 2_000


QUICK_QUEUE: Final = QueuePlan(repeats=1, entries=2_000, singles=50)


class QueueFigure(msgspec.Struct, frozen=True, kw_only=True):
    """``client_us``、``redis_us``：两边的 CPU ÷ 条数；不受机器上别的工作左右。"""

    entries_per_s: float
    client_us: float
    redis_us: float


class QueueReport(Heading, frozen=True, kw_only=True):
    plan: QueuePlan
    medians: dict[str, QueueFigure]
    runs: list[dict[str, QueueFigure]]


def run_queue(plan: QueuePlan, heading: Heading, steps: Steps) -> QueueReport:
    runs = []
    for repeat in range(plan.repeats):
        with steps.step(f"{repeat + 1}/{plan.repeats}: queue"):
            runs.append(uvloop.run(_measure(plan)))
    return QueueReport(
        **msgspec.structs.asdict(heading),
        plan=plan,
        medians={name: _median([run[name] for run in runs]) for name in runs[0]},
        runs=runs,
    )


def queue_table(report: QueueReport) -> Table:
    title = f"{report.command}: median of {report.plan.repeats}"
    shown = Table("", "entries/s", "client CPU (µs)", "Redis CPU (µs)", title=title)
    for column in shown.columns[1:]:
        column.justify = "right"
    for name, label in _ROWS:
        one = report.medians[name]
        shown.add_row(
            label, f"{one.entries_per_s:,.0f}", f"{one.client_us:.1f}", f"{one.redis_us:.1f}"
        )
    return shown


async def unrecorded(entry: QueueEntry, reason: str) -> None:
    """没有记录可写。"""


async def _measure(plan: QueuePlan) -> dict[str, QueueFigure]:
    async with redis_child() as redis:
        queue = MessageQueue(
            redis,
            max_length=plan.entries,
            starvation_bound=10,
            on_dead=unrecorded,
            aside=Aside("dead-letters"),
        )
        entries = list(_entries(plan))
        figures = {
            "enqueue": await _timed(redis, plan.entries, _enqueue(queue, entries, plan)),
            "enqueue_again": await _timed(redis, plan.entries, _enqueue(queue, entries, plan)),
            "take": await _timed(redis, plan.entries, _take(queue, plan)),
            "schedule": await _timed(redis, plan.entries, _schedule(queue, entries, plan)),
            "move_due": await _timed(redis, plan.entries, _move_due(queue)),
        }
        await _take(queue, plan)
        singles = entries[: plan.singles]
        figures["one_by_one"] = await _timed(redis, len(singles), _one_by_one(queue, singles))
        await queue.close()
        return figures


async def _timed(redis: RedisService, entries: int, work: Awaitable[None]) -> QueueFigure:
    redis_before, client_before, started = (
        await redis_cpu_s(redis),
        time.process_time(),
        time.perf_counter(),
    )
    await work
    elapsed, client = time.perf_counter() - started, time.process_time() - client_before
    used = await redis_cpu_s(redis) - redis_before
    return QueueFigure(
        entries_per_s=entries / elapsed,
        client_us=client / entries * 1e6,
        redis_us=used / entries * 1e6,
    )


def _entries(plan: QueuePlan) -> Iterator[QueueEntry]:
    for number in range(plan.entries):
        yield QueueEntry(
            message_id=f"{number:026}",
            recipient_ids=tuple(range(number + 1, number + 1 + plan.recipients)),
            priority=number % 10,
            expires_at=4_000_000_000_000,
        )


async def _enqueue(queue: MessageQueue, entries: list[QueueEntry], plan: QueuePlan) -> None:
    for start in range(0, len(entries), plan.enqueue_batch):
        await queue.batch_enqueue(entries[start : start + plan.enqueue_batch])


async def _take(queue: MessageQueue, plan: QueuePlan) -> None:
    while taken := await queue.batch_dequeue(plan.take_batch, 0):
        await queue.acknowledge(taken)


async def _schedule(queue: MessageQueue, entries: list[QueueEntry], plan: QueuePlan) -> None:
    for start in range(0, len(entries), plan.enqueue_batch):
        batch = entries[start : start + plan.enqueue_batch]
        await queue.schedule([(entry, start + number) for number, entry in enumerate(batch)])


async def _move_due(queue: MessageQueue) -> None:
    while await queue.move_due():
        pass


async def _one_by_one(queue: MessageQueue, entries: list[QueueEntry]) -> None:
    for entry in entries:
        await queue.enqueue_message(entry)
        taken = await queue.dequeue_message(0)
        assert taken is not None
        await queue.acknowledge(taken)


def _median(figures: list[QueueFigure]) -> QueueFigure:
    return QueueFigure(
        entries_per_s=statistics.median(one.entries_per_s for one in figures),
        client_us=statistics.median(one.client_us for one in figures),
        redis_us=statistics.median(one.redis_us for one in figures),
    )
