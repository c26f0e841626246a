"""告警：看大家的数，评估，记下，告诉通知的那一边；人来处理。"""

from __future__ import annotations

from ..monitoring.alerts.book import AlertBook
from ..monitoring.alerts.config import load_alerts
from ..monitoring.alerts.desk import AlertDesk
from ..monitoring.alerts.election import Election, lease_s
from ..monitoring.alerts.evaluator import AlertEvaluator, Sight
from ..monitoring.alerts.sinks import AlertSink, LogSink
from ..node_identity import NodeIdentity
from ..redis.claims import Turn
from ..settings import Settings
from ..storage.alert_state import AlertStateRepository
from ..storage.alerts import AlertRepository
from ..supervision import Supervisor
from .ground import Bus, Record
from .observation import Observation


class Alerting:
    """:raises ConfigurationError: ``MEETING_PUSH_ALERTS`` 的文件不对"""

    def __init__(
        self,
        settings: Settings,
        node: NodeIdentity,
        *,
        record: Record,
        bus: Bus,
        observation: Observation,
    ) -> None:
        config = load_alerts(settings.alerting.file)
        sink: AlertSink = LogSink()
        records = AlertRepository(record.database)
        state = AlertStateRepository(record.database)
        interval_s = settings.alerting.interval_s
        lease = lease_s(interval_s)
        turn = Turn(bus.redis.lean, bus.redis.keys.alert_turn, int(lease * 1_000))
        reports = observation.reports
        self._evaluator = AlertEvaluator(
            config.rules,
            Sight(reports.read, reports.own),
            election=Election(turn, state, node, lease),
            book=AlertBook(records, state),
            sink=sink,
            interval_s=interval_s,
        )
        self.desk = AlertDesk(records, config.rules, sink)
        observation.metrics.add(self._evaluator.samples)

    def start(self, supervisor: Supervisor) -> None:
        supervisor.start("alerts", self._evaluator.run)

    async def stop(self) -> None:
        """让位；在循环停下之后。"""
        await self._evaluator.stop()
