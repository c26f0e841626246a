"""通知的测试共用的：一条告警，一份通知，一个渠道。"""

from __future__ import annotations

from typing import Any

from meeting_push.monitoring.alerts.model import Alert, AlertState, Notice, Severity, Text
from meeting_push.monitoring.notices.channel import Channel
from meeting_push.monitoring.notices.config import notice_config


def alert(alert_id: str = "a1", rule: str = "redis_slow", **given: Any) -> Alert:
    fields: dict[str, Any] = {
        "severity": Severity.WARNING,
        "state": AlertState.FIRING,
        "summary": Text("Redis 往返慢", "Redis is slow"),
        "labels": {"node": "n1"},
        "value": 0.25,
        "threshold": 0.1,
        "started_at": 1_764_500_000_000,
        "runbook": f"runbook/{rule}.md",
        **given,
    }
    return Alert(alert_id=alert_id, rule=rule, **fields)


def resolved(alert_id: str = "a1", rule: str = "redis_slow", **given: Any) -> Alert:
    given = {"resolved_at": 1_764_500_060_000, **given}
    return alert(alert_id, rule, state=AlertState.RESOLVED, **given)


def notice(*alerts: Alert, **given: Any) -> Notice:
    return Notice(notice_id="01NOTICE", alerts=alerts or (alert(),), **given)


def channel(url: str, **given: Any) -> Channel:
    given.pop("fallback", None)
    (one,) = notice_config([{"name": "one", "url": url, **given}], None, None).channels
    return one
