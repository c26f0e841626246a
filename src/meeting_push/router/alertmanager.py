"""Alertmanager 的 webhook：它的 JSON → 我们的告警；有界，多出来的字段不理。"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct
from ulid import ULID

from ..monitoring.alerts.book import ALERTMANAGER, SOURCE
from ..monitoring.alerts.model import Alert, AlertState, Severity, Text
from ..monitoring.alerts.rule import Rule

MAX_ALERTS: Final = 1_000
#: 别人的说法里相当于 critical 的；不认识的是 warning。
_CRITICAL: Final = frozenset({"critical", "page", "error", "fatal", "emergency"})

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Value = Annotated[str, Meta(max_length=4_096)]
Words = Annotated[dict[Name, Value], Meta(max_length=64)]


class ForeignAlert(Struct):
    """一条；字段是 Alertmanager 的名字。"""

    status: Literal["firing", "resolved"]
    labels: Words
    startsAt: Annotated[datetime, Meta(tz=True)]  # noqa: N815 — 别人的格式
    annotations: Words = {}


class WebhookIn(Struct):
    """第 4 版的正文里我们要的。"""

    alerts: Annotated[list[ForeignAlert], Meta(max_length=MAX_ALERTS)]


def alert_of(foreign: ForeignAlert, rules: Mapping[str, Rule]) -> Alert:
    labels = dict(foreign.labels)
    name = labels.pop("alertname", "unnamed")[:200]
    severity = labels.pop("severity", "")
    said, rule = foreign.annotations, rules.get(name)
    english = said.get("summary") or said.get("description") or name
    return Alert(
        alert_id=str(ULID()),
        rule=name,
        severity=_severity(severity),
        state=AlertState(foreign.status),
        summary=Text(said.get("summary_zh", english), english),
        labels={**labels, SOURCE: ALERTMANAGER},
        value=_number(said.get("value", "")),
        threshold=_number(said.get("threshold", "")),
        started_at=max(0, int(foreign.startsAt.timestamp() * 1_000)),
        runbook=said.get("runbook") or said.get("runbook_url") or (rule.page if rule else ""),
    )


def _severity(text: str) -> Severity:
    if text.lower() in _CRITICAL:
        return Severity.CRITICAL
    return Severity.INFO if text.lower() in {"info", "none"} else Severity.WARNING


def _number(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        return 0.0
    return found if math.isfinite(found) else 0.0
