"""各方并排：终端的表、JSON、一个给人看的页面。"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

import msgspec
from rich.table import Table

from ..load.page import document, machine_lines
from ..load.page import table as html_table
from ..load.table import quantity
from ..report import Heading, write_folder
from .contenders import OURS, Contender
from .run import PeerFigures, PeersPlan

#: 名字、说明、单位、哪边好。
ROWS: Final = (
    ("connects_per_s", "connects", "/s", "higher"),
    ("memory_per_socket", "memory per idle socket", "B", "lower"),
    ("fanout_per_s", "fan-out, deliveries", "/s", "higher"),
    ("fanout_cpu_us", "  server CPU per delivery", "µs", "lower"),
    ("unicast_per_s", "unicast through Redis, messages", "/s", "higher"),
    ("unicast_cpu_us", "  server CPU per message", "µs", "lower"),
    ("lost", "lost", "", "lower"),
)


class PeersReport(Heading, frozen=True, kw_only=True):
    """``ratios``：各方 ÷ 我们。"""

    format: str = "meeting-push-peers-1"
    plan: PeersPlan
    contenders: dict[str, str]
    medians: dict[str, dict[str, float]]
    ratios: dict[str, dict[str, float]]
    runs: list[PeerFigures]


def make_report(
    heading: Heading,
    plan: PeersPlan,
    contenders: Sequence[Contender],
    runs: list[PeerFigures],
) -> PeersReport:
    medians = {contender.name: _medians(runs, contender.name) for contender in contenders}
    ours = medians.get(OURS, {})
    return PeersReport(
        **msgspec.structs.asdict(heading),
        plan=plan,
        contenders={contender.name: contender.about for contender in contenders},
        medians=medians,
        ratios={
            name: {key: value / ours[key] for key, value in row.items() if ours.get(key)}
            for name, row in medians.items()
        },
        runs=runs,
    )


def peers_table(report: PeersReport) -> Table:
    title = f"meeting-push bench peers: median of {report.plan.rounds}, same work (÷ ours)"
    shown = Table("", *report.medians, title=title)
    for column in shown.columns[1:]:
        column.justify = "right"
    for label, cells in _rows(report):
        shown.add_row(label, *cells)
    return shown


def write_peers(report: PeersReport, directory: Path) -> Path:
    """写成 ``<directory>/peers-<时刻>/``，返回它。"""
    folder = write_folder(report, directory)
    (folder / "index.html").write_text(_page(report))
    return folder


def _page(report: PeersReport) -> str:
    rows = [(escape(label), *map(escape, cells)) for label, cells in _rows(report)]
    about = [(escape(name), escape(text)) for name, text in report.contenders.items()]
    return document(
        "meeting-push bench peers",
        "<h1>meeting-push bench peers</h1>",
        f"<p class=about>{report.plan.sockets:,} sockets, {report.plan.frame_bytes}-byte frames, "
        f"one server process each; median of {report.plan.rounds} interleaved rounds; "
        "in parentheses: ÷ ours.</p>",
        f"<pre>{escape(report.command)}</pre>",
        html_table(("", *report.medians), rows),
        "<h2>Who</h2>",
        html_table(("", ""), about),
        f"<h2>On what</h2><p>{escape(report.started_at)} · commit {escape(str(report.commit))}",
        f"<br>{machine_lines(report.machine)}</p>",
    )


def _rows(report: PeersReport) -> list[tuple[str, list[str]]]:
    return [
        (label, [_cell(report, name, key, unit) for name in report.medians])
        for key, label, unit, _ in ROWS
    ]


def _cell(report: PeersReport, name: str, key: str, unit: str) -> str:
    shown = quantity(report.medians[name][key], unit)
    ratio = report.ratios[name].get(key)
    return shown if name == OURS or ratio is None else f"{shown} ({ratio:.2f})"


def _medians(runs: Sequence[PeerFigures], name: str) -> dict[str, float]:
    mine = [run for run in runs if run.contender == name]
    return {key: float(statistics.median(getattr(run, key) for run in mine)) for key, *_ in ROWS}
