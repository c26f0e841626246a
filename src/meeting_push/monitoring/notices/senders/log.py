"""``log://``：每条告警一行 WARNING。"""

from __future__ import annotations

from loguru import logger

from ....errors import ConfigurationError
from ....logs import plain
from ...alerts.model import Alert, Notice
from ..config import Channel
from ..text import NoticeWriter


class LogLines:
    def __init__(self, channel: Channel, writer: NoticeWriter) -> None:
        if channel.address.url != "log://":
            raise ConfigurationError("log:// takes nothing after it")
        self._language = channel.language
        self._writer = writer

    async def send(self, notice: Notice) -> tuple[str, ...]:
        for alert in notice.alerts:
            self._say(alert, notice)
        return ()

    def _say(self, alert: Alert, notice: Notice) -> None:
        """事件名是 ``alert_firing``、``alert_resolved``。"""
        summary = alert.summary.zh if self._language == "zh" else alert.summary.en
        fields = {
            "alert_id": alert.alert_id,
            "rule": alert.rule,
            "severity": alert.severity.value,
            "summary": plain(summary),
            "value": self._writer.show(alert.rule, alert.value),
            "threshold": self._writer.show(alert.rule, alert.threshold),
            "since": self._writer.moment(alert.started_at),
            "runbook": self._writer.runbook(alert),
            **{f"label_{name}": plain(value) for name, value in alert.labels.items()},
            **({"test": True} if notice.is_test else {}),
            **({"escalated": True} if notice.is_escalation else {}),
        }
        logger.bind(**fields).warning(f"alert_{alert.state.value}")
