"""一条规则。"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal, get_args

import msgspec

from .expressions import Expression
from .model import Severity, Text

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
