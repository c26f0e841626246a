"""告警的名词：一条告警、它在 SQL 里的一行、它的严重程度、一份通知、告诉谁。"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

import msgspec

from ...storage.alerts import AlertRow, PendingRow

#: 一个值的标签；没有则空。
Labels = tuple[tuple[str, str], ...]

_labels: Final = msgspec.json.Decoder(dict[str, str])


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


class Spot(NamedTuple):
    """一条规则的一组标签。"""

    rule_id: str
    labels: Labels


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


class AlertSink(Protocol):
    """触发了、恢复了，告诉谁：通知的一边。"""

    async def told(self, alerts: Sequence[Alert]) -> None:
        """几条刚触发或刚恢复的；同一条的同一件事可能再来（至少一次）。

        很快返回，不等渠道；暂时不行的抛 ``MeetingPushError``，下一轮再来。
        """

    async def test(self, channel: str) -> None:
        """向一个渠道发一份标明是试的通知。

        :raises NotFoundError: 没有这个渠道
        """


# ── SQL 里的一行 ─────────────────────────────────────────────────────────────


def row_of(alert: Alert) -> AlertRow:
    """还没有告诉过谁的一行。"""
    return AlertRow(
        alert_id=alert.alert_id,
        rule=alert.rule,
        labels=_json(alert.labels),
        severity=alert.severity.value,
        summary_zh=alert.summary.zh,
        summary_en=alert.summary.en,
        value=alert.value,
        threshold=alert.threshold,
        runbook=alert.runbook,
        started_at=alert.started_at,
        resolved_at=alert.resolved_at,
        spot_key=key_of(spot_of(alert.rule, alert.labels)),
    )


def alert_from(row: AlertRow) -> Alert:
    return Alert(
        alert_id=row.alert_id,
        rule=row.rule,
        severity=Severity(row.severity),
        state=AlertState.FIRING if row.resolved_at is None else AlertState.RESOLVED,
        summary=Text(row.summary_zh, row.summary_en),
        labels=_labels.decode(row.labels),
        value=row.value,
        threshold=row.threshold,
        started_at=row.started_at,
        resolved_at=row.resolved_at,
        runbook=row.runbook,
    )


def spot_of(rule_id: str, labels: dict[str, str]) -> Spot:
    return Spot(rule_id, tuple(sorted(labels.items())))


def key_of(spot: Spot) -> str:
    return hashlib.sha256(msgspec.json.encode(spot)).hexdigest()


def pending_row(spot: Spot, since: int) -> PendingRow:
    return PendingRow(key_of(spot), spot.rule_id, _json(dict(spot.labels)), since)


def waiting(row: PendingRow) -> tuple[Spot, int]:
    return spot_of(row.rule, _labels.decode(row.labels)), row.since


def _json(labels: dict[str, str]) -> str:
    return msgspec.json.encode(labels, order="sorted").decode()
