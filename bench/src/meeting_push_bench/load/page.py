"""报告的文件夹：``result.json``、几张 SVG、一个给人看的 ``index.html``。"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from math import log10
from pathlib import Path
from typing import Final

import msgspec

from ..machine import Machine
from ..report import write_folder
from .result import Figure, Latency, Result, Row
from .svg_chart import Points, line_chart
from .table import amount, quantity

_PERCENT_PLACES: Final = 100.0
STYLE: Final = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:780px;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:0}.about{color:#777;margin-top:.2rem}table{border-collapse:collapse;width:100%}
td,th{padding:.25rem .6rem;border-bottom:1px solid #8883;text-align:right}
td:not(:first-child){white-space:nowrap}
td:first-child,th:first-child{text-align:left;white-space:pre}.ok{color:#059669}.bad{color:#dc2626}
pre,code{font:13px ui-monospace,monospace}pre{padding:.6rem;background:#8881;overflow:auto}
svg{width:100%;height:auto;margin:.8rem 0}.note{border-left:3px solid #d97706;padding-left:.8rem}
"""


def write_result(result: Result, directory: Path) -> Path:
    """写成 ``<directory>/<profile>-<时刻>/``，返回它。"""
    folder = write_folder(result, directory)
    charts = dict(_charts(result))
    for name, svg in charts.items():
        (folder / f"{name}.svg").write_text(svg)
    (folder / "index.html").write_text(_page(result, list(charts.values())))
    return folder


def document(title: str, *body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        f'</title><meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}'
        f"</style></head><body>{''.join(body)}</body></html>\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """单元格是 HTML：自己的文字要先 ``escape``。"""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def machine_lines(machine: Machine) -> str:
    return escape(
        f"{machine.cpu}, {machine.cores} cores, {quantity(machine.memory_bytes, 'B')}; "
        f"Linux {machine.kernel}; Python {machine.python}; "
        f"load average at the start {machine.load_average}"
    )


def _page(result: Result, charts: Sequence[str]) -> str:
    title = f"meeting-push bench {result.bench}"
    processes = ", ".join(f"{role} × {count}" for role, count in result.servers.items())
    return document(
        title,
        f"<h1>{escape(title)}</h1><p class=about>{escape(result.plan.about)}</p>",
        f"<p>{_verdict(result)}</p><pre>{escape(result.command)}</pre>",
        table(("", "", "goal"), [_figure_row(figure) for figure in result.figures]),
        *(f'<p class="note">{escape(note)}</p>' for note in result.notes),
        _errors(result),
        *charts,
        "<h2>Latency</h2>",
        _latency_table(result.latencies),
        f"<h2>On what</h2><p>{escape(result.started_at)} · commit {escape(str(result.commit))}",
        f"<br>{machine_lines(result.machine)}<br>servers: {escape(processes or 'not ours')}</p>",
        f"<pre>{escape(msgspec.json.format(msgspec.json.encode(result.plan)).decode())}</pre>",
    )


def _verdict(result: Result) -> str:
    goals = [figure for figure in result.figures if figure.goal is not None]
    if result.missed:
        names = ", ".join(figure.label.strip() for figure in result.missed)
        return f'<b class="bad">✗ missed: {escape(names)}</b>'
    return f'<b class="ok">✓ all {len(goals)} goals met</b>'


def _figure_row(figure: Figure) -> tuple[str, str, str]:
    goal = ""
    if figure.goal is not None:
        sign = "≤" if figure.better == "lower" else "≥"
        mark = '<b class="ok">✓</b>' if figure.met else '<b class="bad">✗</b>'
        goal = f"{sign} {escape(quantity(figure.goal, figure.unit))} {mark}"
    return escape(figure.label), escape(amount(figure)), goal


def _errors(result: Result) -> str:
    if not result.errors:
        return ""
    rows = [(escape(kind), f"{count:,}") for kind, count in result.errors.items()]
    return "<h2>Errors</h2>" + table(("", "count"), rows)


def _latency_table(latencies: Sequence[Latency]) -> str:
    percents = (50, 90, 95, 99, 99.9, 100)
    header = ("ms", "count", *("max" if p == 100 else f"P{p:g}" for p in percents))
    return table(
        header,
        [
            (escape(one.label), f"{one.count:,}", *(f"{one.at(p):,.2f}" for p in percents))
            for one in latencies
        ],
    )


# ── 图 ──────────────────────────────────────────────────────────────────────


def _charts(result: Result) -> Iterator[tuple[str, str]]:
    """（文件名，SVG）。"""
    rows = result.rows
    measured = [row for row in rows if row.p50_ms is not None]
    if len(measured) > 1:
        lines = {
            "P50": [(row.at_s, row.p50_ms or 0) for row in measured],
            "P95": [(row.at_s, row.p95_ms or 0) for row in measured],
            "P99": [(row.at_s, row.p99_ms or 0) for row in measured],
        }
        yield "latency", line_chart("Latency to the socket", "s", "ms", lines, log_y=True)
    if len(rows) > 1:
        throughput = {"received/s": [(row.at_s, row.received_per_s) for row in rows]}
        yield "throughput", line_chart("Messages received", "s", "/s", throughput)
        yield "backlog", line_chart("Backlog", "s", "messages", _backlog(rows))
        yield "cpu", line_chart("CPU", "s", "cores", _by_role(rows, "cpu", 1))
        yield "memory", line_chart("Memory", "s", "MB", _by_role(rows, "memory", 2**20))
    if any(one.points for one in result.latencies):
        yield "percentiles", _percentiles(result.latencies)
    for curve in result.curves:
        name = re.sub(r"\W+", "-", curve.title.lower())
        yield (
            name,
            line_chart(curve.title, curve.x_label, curve.y_label, curve.lines, log_y=True),
        )


def _backlog(rows: Sequence[Row]) -> dict[str, Points]:
    return {
        "sent, not received": [(row.at_s, max(0, row.sent - row.received)) for row in rows],
        "queue entries": [(row.at_s, row.queued) for row in rows],
    }


def _by_role(rows: Sequence[Row], field: str, divisor: float) -> dict[str, Points]:
    roles = dict.fromkeys(role for row in rows for role in getattr(row, field))
    return {
        role: [
            (row.at_s, getattr(row, field)[role] / divisor)
            for row in rows
            if role in getattr(row, field)
        ]
        for role in roles
    }


def _percentiles(latencies: Sequence[Latency]) -> str:
    """横轴是“几个九”：0 = P0，1 = P90，2 = P99，3 = P99.9。"""
    lines = {
        one.label: [
            (-log10(1 - percent / _PERCENT_PLACES), ms)
            for percent, ms in one.points
            if percent < 100
        ]
        for one in latencies
    }
    return line_chart("Percentiles", "nines (1 = P90, 2 = P99, 3 = P99.9)", "ms", lines, log_y=True)
