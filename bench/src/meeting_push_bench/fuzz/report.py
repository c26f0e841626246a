"""各 edge 的全程，报告与终端里的表；或只做一个 case。"""

from __future__ import annotations

import asyncio

import msgspec
from rich.console import Console
from rich.table import Table

from ..open_files import allow_sockets
from ..progress import Steps
from ..report import Heading
from ..server_under_test import own_server
from .plan import SETTINGS, FuzzPlan
from .run import EdgeFuzz, fuzz_edge, rerun


class FuzzReport(Heading, frozen=True, kw_only=True):
    plan: FuzzPlan
    runs: list[EdgeFuzz]


def run_fuzz(edges: tuple[str, ...], plan: FuzzPlan, heading: Heading, steps: Steps) -> FuzzReport:
    """每个 edge 一个新的服务器。

    :raises BenchError: 没有做成
    """
    allow_sockets(plan.half_open + plan.workers)  # 服务器进程继承它
    runs = []
    with steps.showing():
        for edge in edges:
            with own_server(edge, **SETTINGS) as server:
                runs.append(fuzz_edge(edge, server, plan, steps))
    return FuzzReport(**msgspec.structs.asdict(heading), plan=plan, runs=runs)


def fuzz_table(report: FuzzReport) -> Table:
    shown = Table(
        *("", "s", "witnessed", "P50", "P95", "P99", "max (ms)", "peak MB"), title="bench fuzz"
    )
    for column in shown.columns[1:]:
        column.justify = "right"
    for run in report.runs:
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


def run_case_alone(console: Console, plan: FuzzPlan, edges: tuple[str, ...], case: int) -> int:
    """返回退出码：1 是有发现。"""
    failed = 0
    for edge in edges:
        with own_server(edge, **SETTINGS) as server:
            finding = asyncio.run(rerun(server.target, plan, case))
            assert server.log is not None
            console.print(server.log.read_text(errors="replace"), markup=False, soft_wrap=True)
        console.print(f"{edge}: {finding or 'nothing found'}", markup=False)
        failed |= finding is not None
    return failed
