"""``bench chaos`` 的命令：跑一次（或重查一份旧的历史），出报告。"""

from __future__ import annotations

import contextlib
import gc
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.console import Console

from ..progress import Steps
from ..report import Heading, write_json
from .check import check
from .history import read_history
from .plan import ChaosPlan
from .report import ChaosReport, make_report, table
from .run import run_chaos
from .town import Ground


@dataclass(frozen=True, slots=True)
class ChaosOrder:
    """``recheck`` 给出时不跑，只查那份历史；``keep`` 是把历史留在哪里。"""

    plan: ChaosPlan
    database_url: str | None
    reports: Path
    keep: Path | None
    recheck: Path | None


def chaos(order: ChaosOrder, heading: Heading, console: Console) -> bool:
    """True：承诺都守住了。

    :raises BenchError: 没有跑完，或历史读不出来
    """
    steps = Steps(console)
    with _history(order, console, steps) as history, steps.showing():
        report = _checked(history, heading, steps)
    _print(report, console)
    console.print(f"report: {write_json(report, order.reports)}", soft_wrap=True)
    return not report.broken_rules


@contextlib.contextmanager
def _history(order: ChaosOrder, console: Console, steps: Steps) -> Iterator[Path]:
    if order.recheck is not None:
        yield order.recheck
        return
    directory = Path(tempfile.mkdtemp(prefix="mp-chaos-"))
    history = order.keep or directory / "history.jsonl"
    try:
        with steps.showing():
            uvloop.run(run_chaos(order.plan, Ground(directory, order.database_url), history, steps))
    except BaseException:
        console.print(f"what is left of the run, with the logs: {directory}", soft_wrap=True)
        raise
    yield history
    shutil.rmtree(directory)


def _checked(history: Path, heading: Heading, steps: Steps) -> ChaosReport:
    with steps.step("check the history"), _no_gc():
        events = read_history(history)
        return make_report(heading, events, check(events))


@contextlib.contextmanager
def _no_gc() -> Iterator[None]:
    """几百万个不成环的小对象：分代回收只是一遍遍地白走。"""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _print(report: ChaosReport, console: Console) -> None:
    console.print(table(report))
    for shown in report.shown:
        violation = shown.violation
        console.print(
            f"\n{violation.rule}: {violation.detail}"
            f" (user {violation.user_id}, message {violation.message_id},"
            f" connection {violation.connection})",
            soft_wrap=True,
        )
        for line in shown.evidence:
            console.print(f"  {line}", soft_wrap=True, markup=False)
