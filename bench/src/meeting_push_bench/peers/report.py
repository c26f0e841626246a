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
from .duel import PARTS, DuelRun, absent
from .duel_arms import CENTRIFUGO, UNLIMITED
from .run import Measured, PeerFigures, PeersPlan

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


#: 与 Centrifugo 的那几行：名字、说明、单位。
DUEL_ROWS: Final = (
    ("memory_per_socket", "memory per idle socket", "B"),
    ("connects_per_s", "connects", "/s"),
    ("connect_cpu_us", "  server CPU per connect", "µs"),
    ("connect_redis_us", "  Redis CPU per connect", "µs"),
    ("fanout_per_s", "fan-out, deliveries", "/s"),
    ("fanout_cpu_us", "  server CPU per delivery", "µs"),
    ("unicast_best_per_s", "transient unicast, best rate with P95 < 50 ms", "/s"),
    ("unicast_cpu_us", "  server CPU per message, at the fixed rate", "µs"),
    ("unicast_redis_us", "  Redis CPU per message", "µs"),
    ("storm_per_s", "reconnect storm", "/s"),
    ("storm_cpu_us", "  server CPU per socket, closing included", "µs"),
    ("storm_redis_us", "  Redis CPU per socket", "µs"),
    ("single_per_s", "durable, one message a request, 16 connections", "/s"),
    ("single_cpu_us", "  server CPU per message", "µs"),
    ("single_redis_us", "  Redis CPU per message", "µs"),
    ("paced_cpu_us", "durable, one a request, open loop: server CPU per message", "µs"),
    ("paced_redis_us", "  Redis CPU per message", "µs"),
    ("paced_post_p50_ms", "  POST to answer P50", "ms"),
    ("paced_p50_ms", "  POST to socket P50", "ms"),
    ("paced_p95_ms", "  POST to socket P95", "ms"),
    ("paced_p99_ms", "  POST to socket P99", "ms"),
    ("batch_per_s", "durable, a batch a request, 4 connections", "/s"),
    ("batch_cpu_us", "  server CPU per message", "µs"),
    ("batch_redis_us", "  Redis CPU per message", "µs"),
    ("lost", "lost", ""),
)


class PeersReport(Heading, frozen=True, kw_only=True):
    """``ratios``：各方 ÷ 我们；``notes``：怎样启动的，哪些没有量、为什么。"""

    format: str = "meeting-push-peers-1"
    plan: PeersPlan
    contenders: dict[str, str]
    medians: dict[str, dict[str, float]]
    ratios: dict[str, dict[str, float]]
    runs: list[PeerFigures]
    duel: list[DuelRun]
    notes: list[str]


def make_report(
    heading: Heading,
    plan: PeersPlan,
    contenders: Sequence[Contender],
    measured: Measured,
) -> PeersReport:
    runs = measured.others
    present = contenders if runs else ()
    medians = {contender.name: _medians(runs, contender.name) for contender in present}
    ours = medians.get(OURS, {})
    return PeersReport(
        **msgspec.structs.asdict(heading),
        plan=plan,
        contenders={contender.name: contender.about for contender in present},
        medians=medians,
        ratios={
            name: {key: value / ours[key] for key, value in row.items() if ours.get(key)}
            for name, row in medians.items()
        },
        runs=runs,
        duel=measured.duel,
        notes=_notes(plan),
    )


def _notes(plan: PeersPlan) -> list[str]:
    if not set(plan.parts()) & set(PARTS):
        return []
    settings = " ".join(f"{name.upper()}={value}" for name, value in UNLIMITED.items())
    processes = "api, gateway, worker, a process each" if plan.duel.split else "one process"
    return [
        f"duel: ours without limits on senders and connects: {settings}",
        f"duel: ours in the durable rows: {processes}",
        f"duel: Redis of both: {plan.duel.redis_server or 'the embedded one'}",
        *absent(plan.centrifugo),
    ]


def peers_tables(report: PeersReport) -> list[Table]:
    """量了的才有。"""
    others = [_others_table(report)] if report.runs else []
    return [*others, *([_duel_table(report)] if report.duel else [])]


def _others_table(report: PeersReport) -> Table:
    title = f"meeting-push bench peers: median of {report.plan.rounds}, same work (÷ ours)"
    shown = Table("", *report.medians, title=title)
    for column in shown.columns[1:]:
        column.justify = "right"
    for label, cells in _rows(report):
        shown.add_row(label, *cells)
    return shown


def _duel_table(report: PeersReport) -> Table:
    """中位数，括号里是各轮的最小与最大。"""
    title = f"meeting-push bench peers: beside Centrifugo, {report.plan.duel.rounds} rounds"
    shown = Table("", OURS, CENTRIFUGO, "ours ÷", title=title)
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in _duel_rows(report):
        shown.add_row(*row)
    return shown


def _duel_rows(report: PeersReport) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for key, label, unit in DUEL_ROWS:
        mine, theirs = (_duel_values(report, arm, key) for arm in (OURS, CENTRIFUGO))
        if mine:
            rows.append((label, _spread(mine, unit), _spread(theirs, unit), _ratio(mine, theirs)))
    return rows


def _duel_values(report: PeersReport, arm: str, key: str) -> list[float]:
    runs = [run.figures for run in report.duel if run.arm == arm]
    if key == "lost":
        return [sum(v for name, v in run.items() if name.endswith("_lost")) for run in runs]
    return [run[key] for run in runs if key in run]


def _spread(values: Sequence[float], unit: str) -> str:
    if not values:
        return "—"
    middle = quantity(statistics.median(values), unit)
    if len(values) == 1:
        return middle
    return f"{middle} ({quantity(min(values), '')}–{quantity(max(values), '')})"


def _ratio(mine: Sequence[float], theirs: Sequence[float]) -> str:
    if not theirs or not statistics.median(theirs):
        return "—"
    return f"{statistics.median(mine) / statistics.median(theirs):.2f}"


def write_peers(report: PeersReport, directory: Path) -> Path:
    """写成 ``<directory>/peers-<时刻>/``，返回它。"""
    folder = write_folder(report, directory)
    (folder / "index.html").write_text(_page(report))
    return folder


def _page(report: PeersReport) -> str:
    rows = [(escape(label), *map(escape, cells)) for label, cells in _rows(report)]
    duel = [tuple(map(escape, row)) for row in _duel_rows(report)]
    about = [(escape(name), escape(text)) for name, text in report.contenders.items()]
    return document(
        "meeting-push bench peers",
        "<h1>meeting-push bench peers</h1>",
        f"<p class=about>{report.plan.sockets:,} sockets, {report.plan.frame_bytes}-byte frames, "
        f"one server process each; median of {report.plan.rounds} interleaved rounds; "
        "in parentheses: ÷ ours.</p>",
        f"<pre>{escape(report.command)}</pre>",
        html_table(("", *report.medians), rows),
        "<h2>Beside Centrifugo</h2>",
        html_table(("", OURS, CENTRIFUGO, "ours ÷"), duel),
        *(f"<p class=note>{escape(note)}</p>" for note in report.notes),
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
