"""告警的名词：一条告警、它的严重程度、一份通知。"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec


class Severity(StrEnum):
    """次序即轻重。"""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        return list(Severity).index(self)


class AlertState(StrEnum):
    FIRING = "firing"
    RESOLVED = "resolved"


class Text(NamedTuple):
    """给人看的话，两种语言。"""

    zh: str
    en: str


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """触发过的一次；时刻是毫秒。``value`` 与 ``threshold`` 同单位（规则说是什么单位）。"""

    alert_id: str
    rule: str
    severity: Severity
    state: AlertState
    summary: Text
    labels: dict[str, str]
    value: float
    threshold: float
    started_at: int
    resolved_at: int | None = None
    #: 处置手册的页：相对 ``docs/``，如 ``runbook/redis_slow.md``。
    runbook: str


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """一份通知：一个渠道在一个 ``group_s`` 里触发的、恢复的。"""

    notice_id: str
    alerts: tuple[Alert, ...]
    #: ``POST /alerts/test`` 发的。
    is_test: bool = False
    #: 没人认领，升级而来。
    is_escalation: bool = False
