"""压测队列的 profile：量得完整，报告读得回来；从不断言速度。"""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
from rich.console import Console

from meeting_push_bench.progress import Steps
from meeting_push_bench.queue import QueuePlan, QueueReport, queue_table, run_queue
from meeting_push_bench.report import Heading, write_json

TINY = QueuePlan(repeats=2, entries=50, enqueue_batch=7, take_batch=9, singles=3)


def test_a_small_run_gives_a_whole_report(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    report = run_queue(TINY, Heading.now("queue", "meeting-push bench queue"), Steps(console))
    written = write_json(report, tmp_path)
    assert written.name.startswith("bench-queue-")
    assert msgspec.json.decode(written.read_bytes(), type=QueueReport) == report
    assert all(one.entries_per_s > 0 for one in report.medians.values())
    console.print(queue_table(report))
    printed = console.file
    assert isinstance(printed, io.StringIO)
    assert "in, batches" in printed.getvalue()
