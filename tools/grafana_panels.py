"""Grafana 仪表板的词汇：一张图、一节、一张仪表板，与写式子的几个动词。"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from meeting_push.monitoring.metrics import PREFIX

Kind = Literal["timeseries", "stat", "table"]
#: （式子，图例）。
Query = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Panel:
    """一张图。``rule`` 是看着它的告警规则：说明里带上它与处置手册的页。

    ``unit`` 是 Grafana 的单位；``width`` 是 24 格里占几格。
    """

    title: str
    text: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    rule: str | None = None


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    uid: str
    title: str
    text: str
    sections: tuple[Section, ...]


def figure(title: str, text: str, expression: str, legend: str, rule: str | None = None) -> Panel:
    """一个大字的数。"""
    return Panel(title, text, ((expression, legend),), kind="stat", width=4, height=4, rule=rule)


# ── 式子 ─────────────────────────────────────────────────────────────────────


def of(name: str, labels: str = "") -> str:
    """一个指标，只要选中的那几个 ``serve``。"""
    full = name if name.startswith("process_") else PREFIX + name
    return f'{full}{{instance=~"$instance"{labels and f",{labels}"}}}'


def rate(name: str, by: str = "", labels: str = "") -> str:
    """每秒几次，全部进程之和。"""
    return f"{_sum(by)}(rate({of(name, labels)}[$__rate_interval]))"


def total(name: str, by: str = "") -> str:
    return f"{_sum(by)}({of(name)})"


def shared(name: str, by: str = "") -> str:
    """大家看着的同一样东西：几个 ``serve`` 都说它，不相加。"""
    return f"max{f' by ({by})' if by else ''} ({of(name)})"


def share(part: str, whole: str) -> str:
    return f"{part} / clamp_min({whole}, 0.000001)"


def quantiles(name: str, *wanted: float) -> tuple[Query, ...]:
    buckets = f"sum by (le) (rate({of(f'{name}_bucket')}[$__rate_interval]))"
    return tuple((f"histogram_quantile({q}, {buckets})", f"P{q * 100:g}") for q in wanted)


def _sum(by: str) -> str:
    return f"sum by ({by}) " if by else "sum "
