"""一条告警与它在 SQL 里的一行互换。"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
from ulid import ULID

from ...storage.alert_state import PendingRow
from ...storage.alerts import AlertRow
from .model import Alert, AlertState, Severity, Text
from .phases import Spot
from .rule import Rule

_labels: Final = msgspec.json.Decoder(dict[str, str])


def alert_of(rule: Rule, spot: Spot, value: float, now: int) -> Alert:
    """刚触发的一条。"""
    labels = dict(spot.labels)
    return Alert(
        alert_id=str(ULID()),
        rule=rule.rule_id,
        severity=rule.severity,
        state=AlertState.FIRING,
        summary=rule.say(value, labels),
        labels=labels,
        value=value,
        threshold=rule.threshold,
        started_at=now,
        runbook=rule.page,
    )


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
