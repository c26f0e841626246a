"""``meeting-push bench fuzz``。"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from ..machine import Machine, commit, versions
from ..open_files import allow_sockets
from ..progress import Steps
from ..report import Heading, write_report
from ..report_folder import Reports
from ..server_under_test import own_server
from .figures import EdgeFuzz
from .plan import EDGES, QUICK, SETTINGS, FuzzPlan
from .run import fuzz_edge, rerun


class FuzzReport(msgspec.Struct, frozen=True, kw_only=True):
    started_at: str
    command: str
    commit: str | None
    machine: Machine
    versions: dict[str, str]
    plan: FuzzPlan
    runs: list[EdgeFuzz]


def fuzz(
    cases: Annotated[int | None, typer.Option(min=1, help="Connections per edge.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same cases.")] = 1,
    case: Annotated[int | None, typer.Option(help="Only this case, once.")] = None,
    edge: Annotated[str | None, typer.Option(help="native or asgi; default both.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small: seconds, not minutes.")] = False,
    reports: Reports = Path("reports"),
) -> None:
    """Bad input against a real server on both edges; exit code 1 if it was hurt."""
    given = {"cases": cases, "seed": seed}
    plan = msgspec.structs.replace(
        QUICK if quick else FuzzPlan(), **{k: v for k, v in given.items() if v is not None}
    )
    console = Console(highlight=False)
    edges = (edge,) if edge is not None else EDGES
    if case is not None:
        raise typer.Exit(_one_case(console, plan, edges, case))
    heading = Heading.now(f"meeting-push bench fuzz --cases {plan.cases} --seed {seed}")
    runs = run_fuzz(edges, plan, Steps(console))
    report = FuzzReport(
        started_at=heading.started_at,
        command=heading.command,
        commit=commit(),
        machine=heading.machine,
        versions=versions(),
        plan=plan,
        runs=runs,
    )
    console.print(table(runs))
    for run in runs:
        for finding in run.findings:
            console.print(f"{run.edge}: {finding}", markup=False, soft_wrap=True)
    path = write_report(report, "fuzz", heading.started_at, reports)
    console.print(f"report: {path}", soft_wrap=True)
    raise typer.Exit(1 if any(run.findings for run in runs) else 0)


def run_fuzz(edges: tuple[str, ...], plan: FuzzPlan, steps: Steps) -> list[EdgeFuzz]:
    """每个 edge 一个新的服务器。

    :raises BenchError: 没有做成
    """
    allow_sockets(plan.half_open + plan.workers)  # 服务器进程继承它
    runs = []
    with steps.showing():
        for edge in edges:
            with own_server(edge, **SETTINGS) as server:
                runs.append(fuzz_edge(edge, server, plan, steps))
    return runs


def table(runs: list[EdgeFuzz]) -> Table:
    shown = Table(
        *("", "s", "witnessed", "P50", "P95", "P99", "max (ms)", "peak MB"), title="bench fuzz"
    )
    for column in shown.columns[1:]:
        column.justify = "right"
    for run in runs:
        for one in run.ordeals:
            seen = one.witness
            latencies = (seen.p50_ms, seen.p95_ms, seen.p99_ms, seen.max_ms)
            shown.add_row(
                f"{run.edge}: {one.name}",
                f"{one.seconds:.0f}",
                str(seen.count),
                *(f"{value:.0f}" for value in latencies),
                f"{one.peak_rss_bytes / 2**20:.0f}",
            )
    return shown


def _one_case(console: Console, plan: FuzzPlan, edges: tuple[str, ...], case: int) -> int:
    failed = 0
    for edge in edges:
        with own_server(edge, **SETTINGS) as server:
            finding = asyncio.run(rerun(server.target, plan, case))
            assert server.log is not None
            console.print(server.log.read_text(errors="replace"), markup=False, soft_wrap=True)
        console.print(f"{edge}: {finding or 'nothing found'}", markup=False)
        failed |= finding is not None
    return failed
