"""一条规则：看什么（式子），何时越线，怎样说给人，在 Prometheus 里怎样写。

式子是小的结构，不是要解释的文字：内置的评估（``evaluation.py``）与 PromQL 都由它来。它的值是几个
数，各有自己的标签；没有数据、分母里没有东西，就没有值，也就不触发。
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal, get_args

import msgspec

from ..metrics import PREFIX
from .model import Severity, Text

#: ``by`` 的一种：一个进程一个值。内置的标签叫 ``node``，Prometheus 里是 ``instance``、``process``。
PROCESS: Final = "process"


class Selector(msgspec.Struct, frozen=True):
    """一个指标，可以只要 ``label`` 是 ``values`` 之一的；名字不带前缀，计数器不带 ``_total``。"""

    name: str
    kind: Literal["counter", "gauge"] = "gauge"
    label: str = ""
    values: tuple[str, ...] = ()


def counter(name: str, label: str = "", *values: str) -> Selector:
    return Selector(name, "counter", label, values)


def gauge(name: str, label: str = "", *values: str) -> Selector:
    return Selector(name, "gauge", label, values)


class Increase(msgspec.Struct, frozen=True):
    """几个计数器在窗口里一共增加多少；从零重来的，照新增的算。``by``：按哪个标签分开。"""

    of: tuple[Selector, ...]
    by: str = ""


class Latest(msgspec.Struct, frozen=True):
    """各进程此刻的值合成一个；``by`` 是一个标签，或 ``PROCESS``。"""

    of: Selector
    how: Literal["max", "min", "sum"]
    by: str = ""
    absolute: bool = False


class Excess(msgspec.Struct, frozen=True):
    """窗口里来的比走的多多少。"""

    came: Increase
    went: Increase


class Ratio(msgspec.Struct, frozen=True):
    """``whole`` 不到 ``at_least`` 就没有值。"""

    part: Increase
    whole: Increase
    at_least: float = 0


class Pair(msgspec.Struct, frozen=True):
    """一对窗口（秒）与它们允许的倍数：长的说明要紧，短的说明还在烧。"""

    long_s: int
    short_s: int
    times: float


class Burn(msgspec.Struct, frozen=True):
    """错误预算烧得多快：``good ÷ all`` 差目标多少倍，再除以 ``Pair.times``；大于 1 就是太快。"""

    good: Increase
    all: Increase
    objective: float
    pairs: tuple[Pair, ...]


class Always(msgspec.Struct, frozen=True):
    """总是 1。"""


Expression = Increase | Latest | Excess | Ratio | Burn | Always


def selectors(expression: Expression) -> tuple[Selector, ...]:
    """它用到的全部指标。"""
    match expression:
        case Increase(of=of):
            return of
        case Latest(of=one):
            return (one,)
        case Excess(came=came, went=went):
            return came.of + went.of
        case Ratio(part=part, whole=whole):
            return part.of + whole.of
        case Burn(good=good, all=every):
            return good.of + every.of
        case _:
            return ()


def is_windowed(expression: Expression) -> bool:
    """规则的 ``window_s`` 对它有没有意义。"""
    return isinstance(expression, Increase | Excess | Ratio)


Unit = Literal["ratio", "count", "seconds", "state", "times"]
UNITS: Final[tuple[str, ...]] = get_args(Unit)


class Comparison(StrEnum):
    ABOVE = "above"
    BELOW = "below"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """``summary`` 里 ``{value}``、``{threshold}``、``{window}`` 与各标签的名字会换成它们的值。

    ``window_s`` 只对看一段时间的式子有意义，别的是 0；越线满 ``for_s`` 才触发。
    """

    rule_id: str
    expression: Expression
    comparison: Comparison
    threshold: float
    unit: Unit
    severity: Severity
    summary: Text
    window_s: int = 0
    for_s: float = 0
    enabled: bool = True
    #: 空着就是 ``runbook/<rule_id>.md``，相对 ``docs/``。
    runbook: str = ""

    @property
    def page(self) -> str:
        return self.runbook or f"runbook/{self.rule_id}.md"

    def crosses(self, value: float) -> bool:
        if self.comparison is Comparison.ABOVE:
            return value > self.threshold
        return value < self.threshold

    def say(self, value: float, labels: dict[str, str]) -> Text:
        """给人看的一句话。"""
        words = {
            **labels,
            "value": shown(value, self.unit),
            "threshold": shown(self.threshold, self.unit),
            "window": duration(self.window_s),
        }
        return Text(*(_filled(template, words) for template in self.summary))


def shown(value: float, unit: Unit) -> str:
    match unit:
        case "ratio":
            return f"{value * 100:.4g} %"
        case "seconds":
            return f"{value:.3g} s"
        case "times":
            return f"{value:.3g} ×"
        case _:
            return f"{value:.10g}"


def duration(seconds: int) -> str:
    return f"{seconds // 60} min" if seconds and seconds % 60 == 0 else f"{seconds} s"


def _filled(template: str, words: dict[str, str]) -> str:
    """标签的值里的花括号不再解释。"""
    parts = template.split("{")
    filled = [parts[0]]
    for part in parts[1:]:
        name, closed, rest = part.partition("}")
        known = bool(closed) and name in words
        filled.append(words[name] + rest if known else "{" + part)
    return "".join(filled)


# ── PromQL ───────────────────────────────────────────────────────────────────


def condition(rule: Rule) -> str:
    """触发时才有值的那个式子。"""
    sign = ">" if rule.comparison is Comparison.ABOVE else "<"
    limit = _number(rule.threshold)
    if isinstance(rule.expression, Burn):
        return _burn(rule.expression, limit)
    if isinstance(rule.expression, Ratio) and rule.expression.at_least:
        part, whole = (_increase(one, rule.window_s) for one in _sides(rule.expression))
        least = _number(rule.expression.at_least)
        return f"({part} / {whole} {sign} {limit}) and {whole} >= {least}"
    return f"{_value(rule.expression, rule.window_s)} {sign} {limit}"


def _value(expression: Expression, window_s: int) -> str:
    """式子的值。"""
    match expression:
        case Increase():
            return _increase(expression, window_s)
        case Latest():
            inner = _selector(expression.of)
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


def _selector(one: Selector) -> str:
    """带前缀、``_total`` 与标签的条件。"""
    name = PREFIX + one.name + ("_total" if one.kind == "counter" else "")
    if not one.values:
        return name
    return f'{name}{{{one.label}=~"{"|".join(one.values)}"}}'


def _number(figure: float) -> str:
    return f"{figure:g}"


def _sides(ratio: Ratio) -> tuple[Increase, Increase]:
    return ratio.part, ratio.whole


def _by(label: str) -> str:
    if label == PROCESS:
        return " by (instance, process) "
    return f" by ({label}) " if label else ""


def _increase(increase: Increase, window_s: int) -> str:
    sums = [
        f"sum{_by(increase.by)}(increase({_selector(one)}[{window_s}s]))" for one in increase.of
    ]
    if len(sums) == 1:
        return sums[0]
    return "(" + " + ".join(f"({one} or vector(0))" for one in sums) + ")"


def _burning(burn: Burn, window_s: int, pair: Pair) -> str:
    good, every = _increase(burn.good, window_s), _increase(burn.all, window_s)
    allowed = _number(round((1 - burn.objective) * pair.times, 9))
    return f"(1 - {good} / {every}) / {allowed}"


def _burn(burn: Burn, limit: str) -> str:
    return " or ".join(
        f"({_burning(burn, pair.long_s, pair)} > {limit}"
        f" and {_burning(burn, pair.short_s, pair)} > {limit})"
        for pair in burn.pairs
    )
