"""看得见：就绪、指标、各进程的报告。都是被拉取的快照。

所有的房间，给看着它们的人：观察与路由。

舰队：这个节点与别的节点合不合，只有它自己够不到 Redis 时怎么办。
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from ..deliver.offline_message_queue import OfflineMessageQueue
from ..errors import MeetingPushError
from ..logs import logger
from ..monitoring.delivery_samples import (
    accept_samples,
    aside_samples,
    clock_samples,
    delivered_samples,
    erasure_samples,
    event_samples,
    eviction_samples,
    mailbox_histograms,
    mailbox_samples,
    outcome_samples,
    quota_samples,
    recovery_samples,
    retention_samples,
    retry_samples,
    room_samples,
    worker_samples,
)
from ..monitoring.edge_samples import (
    RefusedRequests,
    RestRequests,
    ack_samples,
    broadcast_samples,
    canary_samples,
    control_samples,
    due_samples,
    edge_samples,
    meeting_samples,
    presence_samples,
    push_samples,
    seat_samples,
)
from ..monitoring.health import Health
from ..monitoring.inspection import Inspector
from ..monitoring.message_trace import Tracer
from ..monitoring.metrics import Metrics
from ..monitoring.process import (
    GcPauses,
    Host,
    LoopLag,
    process_histograms,
    process_samples,
    process_usage,
)
from ..monitoring.report import NodeReports, Reporter
from ..monitoring.slot_counts import Activity, LogCounts, log_samples
from ..monitoring.snapshots import ServeFiles
from ..monitoring.surroundings import (
    Counts,
    SharedFigures,
    Surroundings,
    database_histograms,
    database_samples,
    health_samples,
    loop_samples,
    redis_histograms,
    redis_samples,
    subscriber_samples,
)
from ..node.fleet_membership import CutOff, FleetMembership
from ..node.flight_recorder import FlightAnswers, TraceAsk
from ..node_identity import NodeIdentity
from ..redis.presence import ReportBoard
from ..redis.probe import RedisProbe
from ..redis.time_slots import ActivityStore, LogCountStore
from ..settings import Role, Settings
from ..storage.fleet import NodeRepository
from ..supervision import Supervisor
from ..version import __version__
from .edge import Edge, Meetings
from .events_out import EventsOut
from .ground import Access, Bus, Record
from .message_path import BroadcastPath, Erasing, MessagePath, OutcomePath, Recovery


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """次序即消息的次序。"""

    record: Record
    bus: Bus
    access: Access
    events: EventsOut
    messages: MessagePath
    outcomes: OutcomePath
    broadcasts: BroadcastPath
    recovery: Recovery
    edge: Edge
    meetings: Meetings
    erasing: Erasing


#: 被切断的原因，见 ``NodeHearing.give_up``。
CUT_OFF = "cut_off"


class Fleet:
    """``hears``：最近一遍检查里，写得进、（有连接的）也听得见 Redis。"""

    def __init__(
        self, settings: Settings, node: NodeIdentity, rooms: Rooms, hears: Callable[[], bool]
    ) -> None:
        role = settings.process.role
        self._holds_sockets = role.holds_sockets
        self.probe = RedisProbe(rooms.bus.redis, node, delivers=role.delivers)
        self.membership = FleetMembership(
            node,
            NodeRepository(rooms.record.database),
            rooms.access.keyring,
            role=role,
            version=__version__,
            hears=hears,
            redis_skew_ms=lambda: self.probe.skew_ms,
        )
        rooms.messages.queue.settlement.mixed = lambda: self.membership.mixed
        hearing = rooms.edge.hearing
        self.cut_off = CutOff(
            hears=hears,
            well_elsewhere=self.membership.well_elsewhere,
            after_s=settings.node.cut_off_s,
            give_up=lambda: hearing.give_up(CUT_OFF),
            recover=lambda: hearing.recover(CUT_OFF),
        )

    def start(self, supervisor: Supervisor, stack: contextlib.AsyncExitStack) -> None:
        stack.push_async_callback(self._withdraw)
        if self._holds_sockets:
            supervisor.start("cut-off", self.cut_off.run)

    async def _withdraw(self) -> None:
        try:
            await self.membership.withdraw()
        except MeetingPushError as error:  # 几秒之后别人自会不再算它
            logger.bind(code=error.code, cause=error.cause).debug("node_not_withdrawn")


#: 写得进、听得见 Redis 的几项。
_HEARING: Final = ("redis", "subscriber", "canary")
#: 每个进程都跑、谁做都一样的：在只做一件事的角色里，它死了不耽误那件事。
_ANYBODYS_LOOPS: Final = frozenset(
    {
        *("outbox-sweep", "outbox-fast", "outbox-mark", "broadcast-relay"),
        *("reconciler", "node-report", "presence-reap", "metrics", "alerts"),
        *("loop-lag", "surroundings", "activity", "stats-history", "log-counts"),
        *("alert-orders", "alert-actions"),
    }
)


def _activity(rooms: Rooms, role: Role) -> Activity:
    """没有连接的角色只数自己收下了多少。"""
    edge, path, redis = rooms.edge, rooms.messages, rooms.bus.redis
    return Activity(
        ActivityStore(redis.lean, redis.keys),
        came=lambda: edge.presence.ledger.take_came() | edge.ack_latency.take_users(),
        online=lambda: list(edge.manager.user_connections) if role.holds_sockets else (),
        sent=lambda: path.messages.tally.messages.total(),
        received=lambda: path.confirmation.delivered,
        clock=rooms.bus.clock,
    )


def _shared(rooms: Rooms, activity: Activity, is_mine: Callable[[], bool]) -> SharedFigures:
    counts = Counts(rooms.outcomes.dead_letters.count, rooms.bus.count_online, activity.active)
    return SharedFigures(rooms.bus.redis, rooms.messages.queue, counts, is_mine)


def _reconnects(rooms: Rooms, role: Role) -> dict[str, int]:
    """哪条连接 → 重连了几次。"""
    counts = {"data": rooms.bus.redis.reconnects}
    if role.holds_sockets:
        counts["subscriber"] = rooms.bus.subscriber.reconnects
    if role.serves_api:
        counts["meetings"] = rooms.meetings.bus.reconnects
    return counts


class Observation:
    """只看本角色在做的事：没有连接的进程不报连接。"""

    def __init__(
        self, settings: Settings, node: NodeIdentity, rooms: Rooms, supervisor: Supervisor
    ) -> None:
        bus, role = rooms.bus, settings.process.role
        self._measures = settings.node.metrics
        self.health = Health(
            supervisor.states, lambda loop: role is Role.ALL or loop not in _ANYBODYS_LOOPS
        )
        self.fleet = Fleet(settings, node, rooms, lambda: self.health.hears(*_HEARING))
        file = settings.process.metrics_file
        self.metrics = Metrics(None if file is None else ServeFiles(file))
        self.refused, self.requests = RefusedRequests(), RestRequests()
        self._lag, self._pauses = LoopLag(), GcPauses()
        self.activity = _activity(rooms, role)
        self.surroundings = Surroundings(
            Host(settings.process.data_dir),
            _shared(rooms, self.activity, self.metrics.is_first),
            rooms.edge.manager.unacked if role.holds_sockets else None,
        )
        self.log_counts = LogCounts(LogCountStore(bus.redis.lean, bus.redis.keys))
        self.reports = NodeReports(
            Reporter(self.metrics, node, role, __version__),
            ReportBoard(bus.redis.client, bus.redis.keys),
            settings.node.stats_interval_s,
        )
        self.inspector = Inspector(
            rooms.messages.mailbox,
            rooms.edge.presence,
            rooms.record.reports,
            rooms.record.names,
            bus.clock,
        )
        self._answers = FlightAnswers(bus.recorder, bus.redis, node, rooms.edge.manager.pushed)
        bus.control.on(TraceAsk, self._answers.take)
        self.tracer = Tracer(
            rooms.record.reports, self._answers, bus.control, bus.redis, self.reports
        )
        self._check(rooms, role)
        self._watch_process(supervisor)
        self._watch_stores(rooms, role)
        self._watch_outcomes(rooms)
        if role.holds_sockets:
            self._watch_edge(bus, rooms.edge, rooms.messages.mailbox)
            self.metrics.add(lambda: retry_samples(rooms.outcomes.retries))
            casts = rooms.broadcasts
            self.metrics.add(lambda: broadcast_samples(casts.feed, casts.acks))
        if role.serves_api:
            self._watch_api(rooms)
            self._watch_meetings(rooms.meetings, essential=role is Role.ALL)
        if role.delivers:
            self._watch_workers(rooms.messages, rooms.outcomes)

    def _check(self, rooms: Rooms, role: Role) -> None:
        """就绪：每个角色都看的。"""
        health, membership = self.health, self.fleet.membership
        health.add("redis", self.fleet.probe.check, essential=role is not Role.API)
        health.add("database", membership.beat, essential=role.serves_api)
        health.add("claim", rooms.recovery.claim.check)
        health.add("fleet", membership.check)
        health.add("agreement", membership.check_others, essential=False)
        health.add("items", rooms.bus.asides.check)

    def _watch_api(self, rooms: Rooms) -> None:
        metrics = self.metrics
        metrics.add(lambda: quota_samples(rooms.access.quota))
        metrics.add(self.refused.samples)
        metrics.add(lambda: accept_samples(rooms.messages.messages.tally))
        metrics.add(lambda: room_samples(rooms.messages.queue.room))

    def _watch_edge(self, bus: Bus, edge: Edge, mailbox: OfflineMessageQueue) -> None:
        metrics, canary = self.metrics, edge.hearing.canary
        push, ack = edge.push_latency, edge.ack_latency
        self.health.add("subscriber", bus.check_subscriber)
        self.health.add("canary", canary.check)
        self.health.add("clients", self.fleet.cut_off.check)
        metrics.add(lambda: edge_samples(edge.manager.statistics()))
        metrics.add(lambda: presence_samples(edge.presence.statistics(), edge.watch.statistics()))
        metrics.add(lambda: control_samples(bus.control.statistics()))
        metrics.add(lambda: canary_samples(canary.statistics()))
        metrics.add(lambda: seat_samples(edge.seats))
        metrics.add(lambda: subscriber_samples(bus.subscriber))
        metrics.add(lambda: push_samples(push))
        metrics.add(lambda: due_samples(push))
        metrics.add(lambda: ack_samples(ack))
        metrics.add_histograms(lambda: mailbox_histograms(mailbox))
        metrics.add_latency("push", "accepted to pushed", push.histogram)
        metrics.add_latency("ack", "pushed to acknowledged", ack.histogram)

    def _watch_process(self, supervisor: Supervisor) -> None:
        metrics, lag, pauses = self.metrics, self._lag, self._pauses
        metrics.add_families(process_usage)
        metrics.add(lambda: process_samples(lag, pauses))
        metrics.add_histograms(lambda: process_histograms(lag, pauses))
        metrics.add(log_samples)
        metrics.add(lambda: health_samples(self.health))
        metrics.add(lambda: loop_samples(supervisor.restarts()))
        metrics.add(self.surroundings.samples)
        metrics.add(self.requests.samples)
        metrics.add_histograms(self.requests.histograms)

    def _watch_stores(self, rooms: Rooms, role: Role) -> None:
        metrics, redis, database = self.metrics, rooms.bus.redis, rooms.record.database
        probe, membership, health = self.fleet.probe, self.fleet.membership, self.health
        metrics.add(lambda: redis_samples(redis, probe, health, _reconnects(rooms, role)))
        metrics.add_histograms(lambda: redis_histograms(probe))
        metrics.add(lambda: database_samples(database, membership, health))
        metrics.add_histograms(lambda: database_histograms(database, membership))

    def _watch_outcomes(self, rooms: Rooms) -> None:
        metrics, path, outcomes = self.metrics, rooms.messages, rooms.outcomes
        metrics.add(
            lambda: outcome_samples(
                path.confirmation,
                outcomes.failures,
                outcomes.expiry,
                path.messages.tally.cancelled,
            )
        )
        metrics.add(lambda: delivered_samples(path.consumers, path.direct.tally))
        metrics.add(lambda: mailbox_samples(path.mailbox))
        metrics.add(lambda: eviction_samples(outcomes.evictions))
        metrics.add(lambda: erasure_samples(rooms.erasing.eraser.erased))
        metrics.add(lambda: aside_samples(rooms.bus.asides))
        metrics.add(lambda: clock_samples(rooms.bus.clock))
        metrics.add(lambda: event_samples(rooms.events.figures(), rooms.events.rows))
        metrics.add(lambda: recovery_samples(**asdict(rooms.recovery.reconciler.statistics)))

    def start(self, supervisor: Supervisor, stack: contextlib.AsyncExitStack) -> None:
        self.fleet.start(supervisor, stack)
        stack.push_async_callback(self._answers.close)
        supervisor.start("health", self.health.run)
        if self._measures:
            self._start_measuring(supervisor, stack)

    def _start_measuring(self, supervisor: Supervisor, stack: contextlib.AsyncExitStack) -> None:
        self._pauses.start()
        stack.callback(self._pauses.stop)
        supervisor.start("loop-lag", self._lag.run)
        supervisor.start("surroundings", self.surroundings.run)
        supervisor.start("activity", self.activity.run)
        supervisor.start("log-counts", self.log_counts.run)
        if self.metrics.shared:
            stack.callback(self.metrics.publish)  # 最后一遍
            supervisor.start("metrics", self.metrics.run)

    def _watch_meetings(self, meetings: Meetings, *, essential: bool) -> None:
        self.health.add("meetings", meetings.check, essential=essential)
        self.metrics.add(lambda: meeting_samples(meetings.hub.statistics()))

    def _watch_workers(self, messages: MessagePath, outcomes: OutcomePath) -> None:
        self.health.add("consumers", messages.consumers.check)
        self.metrics.add(lambda: worker_samples(messages.consumers))
        self.metrics.add(lambda: retention_samples(outcomes.retention))
