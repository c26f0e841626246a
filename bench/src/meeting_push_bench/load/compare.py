"""两次结果的比较：同名的数字逐个相除；不是同样的事就说出来。"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec
from rich.table import Table

from .result import Figure, Result
from .table import amount

Direction = Literal["better", "worse", "same", ""]
_COLORS = {"better": "green", "worse": "red", "same": "dim", "": "dim"}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """``ratio`` 是后 ÷ 前；前为 0 时没有。"""

    name: str
    label: str
    before: Figure
    after: Figure
    ratio: float | None
    direction: Direction


def changes(before: Result, after: Result, noise: float) -> list[Change]:
    """两边都有的数字，按 ``after`` 的次序；变化在 ``noise``（比例）以内的算一样。"""
    known = {figure.name: figure for figure in before.figures}
    return [
        _change(known[figure.name], figure, noise)
        for figure in after.figures
        if figure.name in known
    ]


def differences(before: Result, after: Result) -> Iterator[str]:
    """不可直接相比的原因。"""
    if before.bench != after.bench:
        yield f"different profiles: {before.bench}, {after.bench}"
    if before.plan != after.plan:
        fields = [
            name
            for name in before.plan.__struct_fields__
            if getattr(before.plan, name) != getattr(after.plan, name)
        ]
        yield "different plans: " + ", ".join(fields)
    if (before.machine.cpu, before.machine.cores) != (after.machine.cpu, after.machine.cores):
        yield "different machines"
    loads = before.machine.load_average, after.machine.load_average
    if max(loads) > 1:
        yield f"the machine was busy: load average {loads[0]}, {loads[1]}"


def compare_table(before: Result, after: Result, noise: float) -> Table:
    shown = Table("", "A", "B", "B ÷ A", "", title=f"meeting-push bench {after.bench}")
    for column in shown.columns[1:4]:
        column.justify = "right"
    for change in changes(before, after, noise):
        color = _COLORS[change.direction]
        shown.add_row(
            change.label,
            amount(change.before),
            amount(change.after),
            "" if change.ratio is None else f"{change.ratio:.2f}",
            f"[{color}]{change.direction}[/{color}]",
        )
    return shown


def _change(before: Figure, after: Figure, noise: float) -> Change:
    ratio = after.value / before.value if before.value else None
    return Change(
        name=after.name,
        label=after.label,
        before=before,
        after=after,
        ratio=ratio,
        direction=_direction(before, after, noise),
    )


def _direction(before: Figure, after: Figure, noise: float) -> Direction:
    if after.better == "neither":
        return ""
    if abs(after.value - before.value) <= abs(before.value) * noise:
        return "same"
    return "better" if (after.value > before.value) == (after.better == "higher") else "worse"
