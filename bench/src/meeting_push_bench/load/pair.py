"""``meeting-push bench pair``：同一个 profile，两臂只差几项设置，轮流量几遍；比的是中位数。

一台与别人共用的机器上，先后两次相差一成不算什么：轮流，才分得清是设置还是机器。
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
from rich.console import Console

from ..command_line import changed
from ..progress import Steps
from ..report import Heading, write_json
from .compare import compare_table, differences
from .plan import PROFILES
from .result import Figure, Result
from .run import run_profile
from .servers import Options

Round = tuple[Result, Result]
#: 中位数相差这么一点的算一样。
NOISE: Final = 0.03


class PairReport(Heading, frozen=True, kw_only=True):
    """``settings`` 是 B 臂的；``rounds`` 各是（A，B）。"""

    profile: str
    settings: dict[str, str]
    rounds: list[Round]


def of_medians(results: Sequence[Result]) -> Result:
    """各数字取各次的中位数；别的照第一次。"""
    first = results[0]
    return msgspec.structs.replace(first, figures=[_median(one, results) for one in first.figures])


def _median(figure: Figure, results: Sequence[Result]) -> Figure:
    values = [one.value for each in results for one in each.figures if one.name == figure.name]
    return msgspec.structs.replace(figure, value=median(values))


def ranges(name: str, results: Sequence[Result]) -> str:
    """``name`` 各次的最小与最大。"""
    values = [one.value for each in results for one in each.figures if one.name == name]
    return f"{min(values):,.4g}…{max(values):,.4g}" if values else ""


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """``settings`` 是 B 臂的，A 臂照缺省。"""

    profile: str
    settings: dict[str, str]
    rounds: int
    seconds: float | None
    redis_url: str | None


def measure_pair(order: Pair, heading: Heading, reports: Path) -> None:
    """:raises BenchError: 没有做成"""
    console = Console(highlight=False)
    plan = changed(PROFILES[order.profile], seconds=order.seconds)
    arms = [Options(redis_url=order.redis_url, settings=one) for one in ({}, order.settings)]
    said = " ".join(f"{name}={value}" for name, value in order.settings.items())
    measured: list[Round] = []
    for number in range(order.rounds):
        console.print(f"round {number + 1} of {order.rounds}: A as it is, B with {said}")
        a, b = (run_profile(plan, arm, heading, Steps(console)) for arm in arms)
        measured.append((a, b))
    _show(console, [a for a, _ in measured], [b for _, b in measured])
    report = PairReport(
        **msgspec.structs.asdict(heading),
        profile=order.profile,
        settings=order.settings,
        rounds=measured,
    )
    console.print(f"report: {write_json(report, reports)}", soft_wrap=True)


def _show(console: Console, first: Sequence[Result], second: Sequence[Result]) -> None:
    before, after = of_medians(first), of_medians(second)
    console.print(compare_table(before, after, NOISE))
    for figure in before.figures:
        if figure.better != "neither":
            spans = ranges(figure.name, first), ranges(figure.name, second)
            console.print(f"{figure.label}: A {spans[0]}, B {spans[1]}")
    for difference in differences(before, after):
        console.print(f"note: {difference}")
