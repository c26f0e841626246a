"""``meeting-push bench slow-consumer`` 与 ``bench meeting-isolation``。"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from ..machine import Machine, commit, versions
from ..progress import Steps
from ..report import Heading, write_report
from ..report_folder import Reports
from ..server_under_test import ServerUnderTest, own_server
from .figures import Disturbance, median
from .meeting_isolation import meeting_isolation
from .plan import QUICK, DisturbancePlan
from .slow_consumer import slow_consumer

Profile = Callable[[str, ServerUnderTest, DisturbancePlan, Steps], Disturbance]
EDGES: Final = ("native", "asgi")
_FIGURES: Final = (("p50_ms", "P50"), ("p95_ms", "P95"), ("p99_ms", "P99"))

Quick = Annotated[bool, typer.Option("--quick", help="Small: seconds, not minutes.")]
Rounds = Annotated[int | None, typer.Option(min=1, max=20, help="Rounds; medians.")]


class DisturbanceReport(msgspec.Struct, frozen=True, kw_only=True):
    bench: str
    started_at: str
    command: str
    commit: str | None
    machine: Machine
    versions: dict[str, str]
    plan: DisturbancePlan
    runs: list[Disturbance]


def slow_consumer_command(
    quick: Quick = False, rounds: Rounds = None, reports: Reports = Path("reports")
) -> None:
    """One device stops reading: what the others notice, and what becomes of it."""
    _command("slow-consumer", slow_consumer, quick, rounds, reports)


def meeting_isolation_command(
    quick: Quick = False, rounds: Rounds = None, reports: Reports = Path("reports")
) -> None:
    """A meeting at its limits: what the user sockets notice."""
    _command("meeting-isolation", meeting_isolation, quick, rounds, reports)


def _command(bench: str, profile: Profile, quick: bool, rounds: int | None, reports: Path) -> None:
    plan = QUICK if quick else DisturbancePlan()
    if rounds is not None:
        plan = msgspec.structs.replace(plan, rounds=rounds)
    console = Console(highlight=False)
    heading = Heading.now(f"meeting-push bench {bench} --rounds {plan.rounds}")
    runs = run_profile(profile, plan, Steps(console))
    report = make_report(bench, heading, plan, runs)
    console.print(table(report))
    path = write_report(report, bench, heading.started_at, reports)
    console.print(f"report: {path}", soft_wrap=True)


def run_profile(profile: Profile, plan: DisturbancePlan, steps: Steps) -> list[Disturbance]:
    """两种 edge 各一个新的服务器。

    :raises BenchError: 没有做成
    """
    runs = []
    with steps.showing():
        for edge in EDGES:
            with own_server(edge) as server:
                runs.append(profile(edge, server, plan, steps))
    return runs


def make_report(
    bench: str, heading: Heading, plan: DisturbancePlan, runs: list[Disturbance]
) -> DisturbanceReport:
    return DisturbanceReport(
        bench=bench,
        started_at=heading.started_at,
        command=heading.command,
        commit=commit(),
        machine=heading.machine,
        versions=versions(),
        plan=plan,
        runs=runs,
    )


def table(report: DisturbanceReport) -> Table:
    shown = Table("", "without", "with", "ratio", title=f"meeting-push bench {report.bench}")
    for column in shown.columns[1:]:
        column.justify = "right"
    for run in report.runs:
        for path in run.phases[0].latencies:
            for name, label in _FIGURES:
                without = median(run.phases, "without", path, name)
                disturbed = median(run.phases, "with", path, name)
                shown.add_row(
                    f"{run.edge}: {path} {label} (ms)",
                    f"{without:.1f}",
                    f"{disturbed:.1f}",
                    f"{disturbed / without:.2f}",
                )
        for label, text in _outcomes(run):
            shown.add_row(f"{run.edge}: {label}", "", text, "")
    return shown


def _outcomes(run: Disturbance) -> list[tuple[str, str]]:
    rows = []
    if run.slow:
        closed = ", ".join(f"{one.closed_after_s:.1f}" for one in run.slow)
        growth = ", ".join(f"{one.growth_bytes / 2**20:.1f}" for one in run.slow)
        missing = sum(one.missing for one in run.slow)
        total = sum(one.sent for one in run.slow)
        rows += [
            ("closed 4001 after (s)", closed),
            ("server growth (MB)", growth),
            ("missing after reconnect", f"{missing} of {total}"),
        ]
    if run.floods:
        seconds = sum(one.seconds for one in run.floods)
        rows += [
            ("segments/s", f"{sum(one.segments for one in run.floods) / seconds:.0f}"),
            ("meeting frames/s", f"{sum(one.frames for one in run.floods) / seconds:.0f}"),
            ("segments refused", str(sum(one.refused for one in run.floods))),
        ]
    return rows
