"""一串数字的报告：没有别的轮次可比的 profile 用它（flush、retries、mailbox-memory、rolling）。"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import uvloop
from rich.table import Table

from .load.result import Better, Figure
from .load.table import amount, goal
from .progress import Steps
from .report import Heading

PlanValue = bool | int | float | str
P = TypeVar("P", bound=msgspec.Struct)


@dataclass(slots=True)
class Measurements:
    """边量边记，次序就是表里的次序。"""

    figures: list[Figure] = field(default_factory=list)

    def add(
        self,
        name: str,
        label: str,
        value: float,
        unit: str = "",
        better: Better = "neither",
        goal: float | None = None,
    ) -> None:
        self.figures.append(
            Figure(name=name, label=label, value=value, unit=unit, better=better, goal=goal)
        )


class MeasuredReport(Heading, frozen=True, kw_only=True):
    plan: dict[str, PlanValue]
    figures: list[Figure]

    @classmethod
    def of(cls, heading: Heading, plan: msgspec.Struct, found: Measurements) -> MeasuredReport:
        return cls(
            **msgspec.structs.asdict(heading),
            plan=msgspec.structs.asdict(plan),
            figures=found.figures,
        )

    def value(self, name: str) -> float:
        """:raises KeyError: 没有量它"""
        return {figure.name: figure.value for figure in self.figures}[name]


def measured_run(
    plan: P,
    measure: Callable[[P, Measurements, Steps], Coroutine[object, object, None]],
    heading: Heading,
    steps: Steps,
) -> MeasuredReport:
    """跑 ``measure``，它边量边记；抛出什么就是什么，没有部分的报告。"""
    found = Measurements()
    uvloop.run(measure(plan, found, steps))
    return MeasuredReport.of(heading, plan, found)


def measured_table(report: MeasuredReport) -> Table:
    shown = Table("", "", "goal", title=report.command)
    shown.columns[1].justify = shown.columns[2].justify = "right"
    for figure in report.figures:
        shown.add_row(figure.label, amount(figure), goal(figure))
    return shown
