"""终端里的表：一次运行的，两次比较的。"""

from __future__ import annotations

from rich.table import Table

from .result import Figure, Result

_UNITS = ((2**30, "GB"), (2**20, "MB"), (2**10, "KB"))


def result_table(result: Result) -> Table:
    shown = Table("", "", "goal", title=f"meeting-push bench {result.bench}")
    shown.columns[1].justify = shown.columns[2].justify = "right"
    for figure in result.figures:
        shown.add_row(figure.label, amount(figure), goal(figure))
    for kind, count in result.errors.items():
        shown.add_row(f"[red]error[/red] {kind}", f"{count:,}", "")
    return shown


def amount(figure: Figure) -> str:
    return quantity(figure.value, figure.unit)


def quantity(value: float, unit: str) -> str:
    """人读的：字节换成 KB、MB；大数没有小数。"""
    if unit == "B":
        for size, name in _UNITS:
            if abs(value) >= size:
                return f"{value / size:,.1f} {name}"
        return f"{value:,.0f} B"
    digits = 0 if abs(value) >= 1_000 or value == int(value) else 1 if abs(value) >= 10 else 2
    text = f"{value:,.{digits}f}"
    return f"{text}{unit}" if unit in ("%", "/s") else f"{text} {unit}".rstrip()


def goal(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    sign = "≤" if figure.better == "lower" else "≥"
    mark = "[green]✓[/green]" if figure.met else "[red]✗[/red]"
    return f"{sign} {quantity(figure.goal, figure.unit)} {mark}"
