"""通知里的词，两种语言；``firing``、``resolved`` 与规则的 id 两种里都是原样的，搜得到。"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..alerts.model import AlertState, Severity
from .config import Language


@dataclass(frozen=True, slots=True)
class Words:
    states: dict[AlertState, str]
    severities: dict[Severity, str]
    test: str
    escalation: str
    value: str
    threshold: str
    since: str
    resolved_at: str
    labels: str
    runbook: str
    ops: str
    #: 说不下的还有几条。
    more: str
    comma: str


WORDS: Final[dict[Language, Words]] = {
    "zh": Words(
        states={AlertState.FIRING: "触发 firing", AlertState.RESOLVED: "恢复 resolved"},
        severities={
            Severity.INFO: "提示",
            Severity.WARNING: "警告",
            Severity.CRITICAL: "严重",
        },
        test="【测试】",
        escalation="【升级：无人认领】",
        value="当前",
        threshold="阈值",
        since="始于",
        resolved_at="恢复于",
        labels="标签",
        runbook="处置",
        ops="运维页",
        more="另有 {count} 条，见运维页",
        comma="，",
    ),
    "en": Words(
        states={AlertState.FIRING: "firing", AlertState.RESOLVED: "resolved"},
        severities={
            Severity.INFO: "info",
            Severity.WARNING: "warning",
            Severity.CRITICAL: "critical",
        },
        test="[TEST] ",
        escalation="[ESCALATED: nobody acknowledged] ",
        value="value",
        threshold="threshold",
        since="since",
        resolved_at="resolved at",
        labels="labels",
        runbook="runbook",
        ops="operations",
        more="{count} more, see operations",
        comma=", ",
    ),
}
