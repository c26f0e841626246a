"""告警：看大家的数，评估，记下，通知；人来处理。"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping

from ..errors import ConfigurationError
from ..monitoring.alerts.actions import (
    RESTART,
    RESUBSCRIBE,
    Ability,
    OrderTaker,
    RecoveryActions,
)
from ..monitoring.alerts.book import AlertBook, EventSink
from ..monitoring.alerts.config import AlertConfig, load_alerts
from ..monitoring.alerts.desk import AlertDesk
from ..monitoring.alerts.evaluator import AlertEvaluator, Election, Sight, lease_s
from ..monitoring.alerts.model import Alert
from ..monitoring.alerts.rule import Rule, gauge, shown
from ..monitoring.figures import FIGURES, watched
from ..monitoring.notices.channel import NoticeConfig
from ..monitoring.notices.config import notice_config
from ..monitoring.notices.courier import notice_samples
from ..monitoring.notices.notifier import Notifier
from ..monitoring.notices.text import NoticeWriter, ShowFigure, bare_figure
from ..monitoring.report import Errands
from ..monitoring.rollup import HistoryReader, StatsHistory
from ..node_identity import NodeIdentity
from ..redis.claims import Turn
from ..settings import Settings
from ..storage.alerts import AlertRepository, AlertStateRepository, NoticeRepository
from ..storage.stats_history import StatsHistoryRepository
from ..supervision import Supervisor
from .ground import Record
from .observation import Observation, Rooms


class Alerting:
    """:raises ConfigurationError: ``MEETING_PUSH_ALERTS`` 的文件不对"""

    def __init__(
        self,
        settings: Settings,
        node: NodeIdentity,
        *,
        rooms: Rooms,
        observation: Observation,
    ) -> None:
        record, bus = rooms.record, rooms.bus
        config = load_alerts(settings.alerting.file)
        self._notifier = _notifier(settings, config, record, lambda: self._evaluator.firing())
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
            sink=EventSink(record.database, self._notifier, bus.clock),
            interval_s=interval_s,
        )
        history = StatsHistoryRepository(record.database)
        self._rollup = StatsHistory(history, clock=bus.clock, agreed=bus.clock.agreed)
        self._evaluator.listen(self._rollup.saw, watched(FIGURES.values()))
        self.history = HistoryReader(history, bus.clock)
        self.desk = AlertDesk(
            records, config.rules, self._notifier, NoticeRepository(record.database)
        )
        self._orders = _orders(settings, node, rooms, reports.errands)
        self._actions = RecoveryActions(
            config.actions,
            node,
            reports.errands,
            records=records,
            requeue=rooms.outcomes.dead_letters.requeue_temporary,
            pause_above=config.rules["queue_nearly_full"].threshold,
        )
        self._evaluator.listen(self._orders.saw)
        self._evaluator.listen(self._actions.saw, [gauge("queue_fill_ratio")])
        observation.metrics.add(self._actions.samples)
        observation.metrics.add(self._evaluator.samples)
        observation.metrics.add(self._rollup.samples)
        observation.metrics.add(lambda: notice_samples(self._notifier.statistics()))

    def start(self, supervisor: Supervisor) -> None:
        supervisor.start("alerts", self._evaluator.run)
        supervisor.start("stats-history", self._rollup.run)
        supervisor.start("alert-orders", self._orders.run)
        supervisor.start("alert-actions", self._actions.run)
        for name, body in self._notifier.loops():
            supervisor.start(name, body)

    async def stop(self) -> None:
        """让位；在循环停下之后。"""
        await self._evaluator.stop()


def _orders(settings: Settings, node: NodeIdentity, rooms: Rooms, errands: Errands) -> OrderTaker:
    """这个角色会做的。"""
    role, abilities = settings.process.role, dict[str, Ability]()

    async def resubscribe() -> str:
        rooms.bus.subscriber.reset()
        return "subscribing to everything again"

    async def restart() -> str:
        return f"{await rooms.messages.consumers.restart_stalled()} consumers started again"

    if role.holds_sockets:
        abilities[RESUBSCRIBE] = resubscribe
    if role.delivers:
        abilities[RESTART] = restart
    return OrderTaker(node, errands, abilities, rooms.messages.queue.room.pause)


def _notifier(
    settings: Settings,
    config: AlertConfig,
    record: Record,
    firing: Callable[[], Iterable[Alert] | None],
) -> Notifier:
    try:
        notices = notice_config(*map(config.notices.get, ("channels", "escalate", "quiet_hours")))
        writer = _writer(settings, config.rules, notices)
        return Notifier(notices, writer, NoticeRepository(record.database), firing=firing)
    except ConfigurationError as error:
        raise ConfigurationError(f"{settings.alerting.file}: {error.message}") from error


def _writer(settings: Settings, rules: Mapping[str, Rule], notices: NoticeConfig) -> NoticeWriter:
    process = settings.process
    everywhere = process.host in {"0.0.0.0", "::"}  # noqa: S104 — 是比较，不是监听
    here = socket.gethostname() if everywhere else process.host
    site = settings.alerting.site or f"http://{here}:{process.port}"
    quiet = notices.quiet_hours
    zone = None if quiet is None else quiet.zone
    return NoticeWriter(site=site.rstrip("/"), show=_figures(rules), zone=zone)


def _figures(rules: Mapping[str, Rule]) -> ShowFigure:
    def show(rule: str, value: float) -> str:
        known = rules.get(rule)
        return bare_figure(rule, value) if known is None else shown(value, known.unit)

    return show
