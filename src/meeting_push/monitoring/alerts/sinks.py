"""触发了、恢复了，告诉谁。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from loguru import logger

from ...errors import NotFoundError
from .model import Alert, AlertState, Severity


class AlertSink(Protocol):
    """通知的一边。"""

    async def told(self, alerts: Sequence[Alert]) -> None:
        """几条刚触发或刚恢复的；同一条的同一件事可能再来（至少一次）。

        很快返回，不等渠道；暂时不行的抛 ``MeetingPushError``，下一轮再来。
        """

    async def test(self, channel: str) -> None:
        """向一个渠道发一份标明是试的通知。

        :raises NotFoundError: 没有这个渠道
        """


class LogSink:
    """没有渠道时的：写进日志。"""

    CHANNEL = "log"

    async def told(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            log = logger.bind(
                alert_id=alert.alert_id,
                rule=alert.rule,
                severity=alert.severity.value,
                labels=alert.labels,
                value=alert.value,
                threshold=alert.threshold,
                summary=alert.summary.en,
                runbook=alert.runbook,
            )
            if alert.state is AlertState.RESOLVED:
                log.info("alert_resolved")
            elif alert.severity is Severity.CRITICAL:
                log.error("alert_firing")
            else:
                log.warning("alert_firing")

    async def test(self, channel: str) -> None:
        if channel != self.CHANNEL:
            raise NotFoundError("no such channel")
        logger.info("alert_test")
