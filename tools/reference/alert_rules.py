"""``alert-rules.md``：内置的每一条规则，出自 ``monitoring/alerts/`` 与处置手册的目录。"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from meeting_push.monitoring.alerts.rule import Comparison, Rule, condition, duration, shown
from meeting_push.monitoring.alerts.rules import RULES

from .pages import DOCS, head, rebased, table

_SEVERITIES: Final = {"info": "知会", "warning": "警告", "critical": "严重"}


@cache
def sentences() -> dict[str, str]:
    """规则 → 处置手册的目录里的一句话。"""
    text = (DOCS / "runbook" / "README.md").read_text()
    rows = re.findall(r"^\| \[(\w+)\]\(\1\.md\) \| (.+) \|$", text, re.MULTILINE)
    return {rule: rebased(said, "runbook/README.md") for rule, said in rows}


def page() -> str:
    return "\n".join((head("alert-rules"), *_overview(), *_details())).rstrip() + "\n"


def _overview() -> Iterator[str]:
    head = ("规则", "轻重", "越线", "看多久", "持续", "手册")
    rows = (
        (
            f"[`{one.rule_id}`](#{one.rule_id})",
            _SEVERITIES[one.severity.value],
            _limit(one),
            duration(one.window_s) if one.window_s else "",
            f"{one.for_s:g} s" if one.for_s else "立即",
            f"[页](../{one.page})",
        )
        for one in RULES.values()
    )
    yield from (*table(head, rows), "")


def _limit(rule: Rule) -> str:
    sign = "高于" if rule.comparison is Comparison.ABOVE else "低于"
    return f"{sign} {shown(rule.threshold, rule.unit)}"


def _details() -> Iterator[str]:
    for one in RULES.values():
        off = "" if one.enabled else "缺省关着。"
        yield f"## {one.rule_id}\n"
        yield f"{sentences()[one.rule_id]}。{off}[处置手册](../{one.page})\n"
        yield f"```promql\n{_in_lines(condition(one))}\n```\n"


def _in_lines(expression: str) -> str:
    """长的在 ``and``、``or`` 处换行。"""
    return re.sub(r" (and|or) (?=\(|sum)", r"\n\1 ", expression)
