"""一次压测的报告：终端里的表，与能与别次相比的 JSON。"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final, Protocol

import msgspec
from rich.table import Table

from .figures import EdgeFigures, medians
from .machine import Machine, commit, this_machine, versions
from .plan import EdgesPlan

#: 表里的行：项、说明、除数（换成说明里的单位）、小数位。
_ROWS: Final = (
    ("idle.pss_bytes_per_socket", "memory per idle socket, PSS (KB)", 1024, 1),
    ("idle.rss_bytes_per_socket", "memory per idle socket, RSS (KB)", 1024, 1),
    ("idle.connects_per_s", "connects/s", 1, 0),
    ("fanout.cpu_us_per_frame", "CPU per delivered frame (µs)", 1, 2),
    ("fanout.frames_per_s", "delivered frames/s", 1, 0),
    ("fanout.server_busy", "  server busy (cores)", 1, 2),
    ("fanout.load_busy", "  load client busy (cores)", 1, 2),
    ("backlog.cpu_us_per_frame", "behind: CPU per delivered frame (µs)", 1, 2),
    ("backlog.frames_per_s", "behind: delivered frames/s", 1, 0),
    ("backlog.server_busy", "  server busy (cores)", 1, 2),
    ("rest.sends_per_s.16", "REST sends/s, concurrency 16", 1, 0),
    ("rest.sends_per_s.1", "REST sends/s, concurrency 1", 1, 0),
    ("durable.p50_ms", "POST to socket P50 (ms)", 1, 1),
    ("durable.p95_ms", "POST to socket P95 (ms)", 1, 1),
    ("durable.p99_ms", "POST to socket P99 (ms)", 1, 1),
)


class EdgesReport(msgspec.Struct, frozen=True, kw_only=True):
    """``ratios``：第一个 edge 除以第二个（有两个时），逐项。"""

    bench: str
    started_at: str
    command: str
    commit: str | None
    machine: Machine
    versions: dict[str, str]
    plan: EdgesPlan
    medians: dict[str, dict[str, float]]
    ratios: dict[str, float]
    runs: list[EdgeFigures]


class Heading(msgspec.Struct, frozen=True, kw_only=True):
    """开始之前就定下的：测量本身会改变机器的负载。"""

    command: str
    started_at: str
    machine: Machine

    @classmethod
    def now(cls, command: str) -> Heading:
        started_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return cls(command=command, started_at=started_at, machine=this_machine())


def make_report(heading: Heading, plan: EdgesPlan, runs: list[EdgeFigures]) -> EdgesReport:
    edges = list(dict.fromkeys(run.edge for run in runs))
    middle = {edge: medians(runs, edge) for edge in edges}
    return EdgesReport(
        bench="edges",
        started_at=heading.started_at,
        command=heading.command,
        commit=commit(),
        machine=heading.machine,
        versions=versions(),
        plan=plan,
        medians=middle,
        ratios=_ratios(*middle.values()) if len(middle) == 2 else {},
        runs=runs,
    )


class Report(Protocol):
    """任何 profile 的报告：一个 msgspec 结构。"""

    @property
    def bench(self) -> str: ...
    @property
    def started_at(self) -> str: ...


def write_json(report: Report, directory: Path) -> Path:
    return write_report(report, report.bench, report.started_at, directory)


def write_report(report: object, bench: str, started_at: str, directory: Path) -> Path:
    """写成 ``bench-<profile>-<时刻>.json``，返回路径。"""
    directory.mkdir(parents=True, exist_ok=True)
    stamp = started_at.translate(str.maketrans("", "", "-:"))
    path = directory / f"bench-{bench}-{stamp}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    return path


def table(report: EdgesReport) -> Table:
    edges = list(report.medians)
    title = f"meeting-push bench edges: median of {report.plan.repeats}"
    ratio = [" ÷ ".join(edges)] if report.ratios else []
    shown = Table("", *edges, *ratio, title=title)
    for column in shown.columns[1:]:
        column.justify = "right"
    for name, label, divisor, digits in _ROWS:
        values = [report.medians[edge].get(name) for edge in edges]
        cells = [f"{v / divisor:,.{digits}f}" if v is not None else "-" for v in values]
        if ratio:
            cells.append(f"{report.ratios[name]:.2f}" if name in report.ratios else "-")
        shown.add_row(label, *cells)
    return shown


def _ratios(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    return {name: first[name] / value for name, value in second.items() if value}
