"""式子 → PromQL。"""

from __future__ import annotations

from ..metrics import PREFIX
from .expressions import (
    PROCESS,
    Always,
    Burn,
    Excess,
    Expression,
    Increase,
    Latest,
    Pair,
    Ratio,
    Selector,
)
from .rule import Comparison, Rule


def condition(rule: Rule) -> str:
    """触发时才有值的那个式子。"""
    sign = ">" if rule.comparison is Comparison.ABOVE else "<"
    limit = number(rule.threshold)
    if isinstance(rule.expression, Burn):
        return _burn(rule.expression, limit)
    if isinstance(rule.expression, Ratio) and rule.expression.at_least:
        part, whole = (_increase(one, rule.window_s) for one in _sides(rule.expression))
        least = number(rule.expression.at_least)
        return f"({part} / {whole} {sign} {limit}) and {whole} >= {least}"
    return f"{value(rule.expression, rule.window_s)} {sign} {limit}"


def value(expression: Expression, window_s: int) -> str:
    """式子的值。"""
    match expression:
        case Increase():
            return _increase(expression, window_s)
        case Latest():
            inner = selector(expression.of)
            inner = f"abs({inner})" if expression.absolute else inner
            return f"{expression.how}{_by(expression.by)}({inner})"
        case Excess(came=came, went=went):
            return f"{_increase(came, window_s)} - {_increase(went, window_s)}"
        case Ratio():
            part, whole = (_increase(one, window_s) for one in _sides(expression))
            return f"{part} / {whole}"
        case Burn():
            return " or ".join(_burning(expression, pair.long_s, pair) for pair in expression.pairs)
        case Always():
            return "vector(1)"


def selector(one: Selector) -> str:
    """带前缀、``_total`` 与标签的条件。"""
    name = PREFIX + one.name + ("_total" if one.kind == "counter" else "")
    if not one.values:
        return name
    return f'{name}{{{one.label}=~"{"|".join(one.values)}"}}'


def number(figure: float) -> str:
    return f"{figure:g}"


def _sides(ratio: Ratio) -> tuple[Increase, Increase]:
    return ratio.part, ratio.whole


def _by(label: str) -> str:
    if label == PROCESS:
        return " by (instance, process) "
    return f" by ({label}) " if label else ""


def _increase(increase: Increase, window_s: int) -> str:
    sums = [f"sum{_by(increase.by)}(increase({selector(one)}[{window_s}s]))" for one in increase.of]
    if len(sums) == 1:
        return sums[0]
    return "(" + " + ".join(f"({one} or vector(0))" for one in sums) + ")"


def _burning(burn: Burn, window_s: int, pair: Pair) -> str:
    good, every = _increase(burn.good, window_s), _increase(burn.all, window_s)
    allowed = number(round((1 - burn.objective) * pair.times, 9))
    return f"(1 - {good} / {every}) / {allowed}"


def _burn(burn: Burn, limit: str) -> str:
    return " or ".join(
        f"({_burning(burn, pair.long_s, pair)} > {limit}"
        f" and {_burning(burn, pair.short_s, pair)} > {limit})"
        for pair in burn.pairs
    )
