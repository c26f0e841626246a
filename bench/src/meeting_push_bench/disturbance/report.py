"""两种 edge 各跑一遍，报告与终端里的表。"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from rich.table import Table

from ..progress import Steps
from ..report import Heading
from ..server_under_test import EDGES, ServerUnderTest, own_server
from .figures import Disturbance, median
from .plan import DisturbancePlan

Profile = Callable[[str, ServerUnderTest, DisturbancePlan, Steps], Disturbance]
_FIGURES: Final = (("p50_ms", "P50"), ("p95_ms", "P95"), ("p99_ms", "P99"))


class DisturbanceReport(Heading, frozen=True, kw_only=True):
    plan: DisturbancePlan
    runs: list[Disturbance]


def run_disturbance(
    profile: Profile, plan: DisturbancePlan, heading: Heading, steps: Steps
) -> DisturbanceReport:
    """两种 edge 各一个新的服务器。

    :raises BenchError: 没有做成
    """
    runs = []
    for edge in EDGES:
        with own_server(edge) as server:
            runs.append(profile(edge, server, plan, steps))
    return make_report(heading, plan, runs)


def make_report(
    heading: Heading, plan: DisturbancePlan, runs: list[Disturbance]
) -> DisturbanceReport:
    return DisturbanceReport(**msgspec.structs.asdict(heading), plan=plan, runs=runs)


def disturbance_table(report: DisturbanceReport) -> Table:
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
