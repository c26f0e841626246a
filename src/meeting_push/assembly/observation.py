"""看得见：就绪、指标、各进程的报告。都是被拉取的快照。"""

from __future__ import annotations

from ..monitoring.health import Health
from ..monitoring.metrics import Metrics
from ..monitoring.node_reports import NodeReports
from ..monitoring.report import Reporter
from ..node_identity import NodeIdentity
from ..settings import Settings
from ..supervision import Supervisor
from ..version import __version__
from .bus import Bus
from .edge import Edge
from .meetings import Meetings
from .message_path import MessagePath
from .outcome_path import OutcomePath
from .rooms import Rooms
from .samples import (
    aside_samples,
    canary_samples,
    control_samples,
    edge_samples,
    eviction_samples,
    expiry_samples,
    meeting_samples,
    presence_samples,
    process_samples,
    push_samples,
    quota_samples,
    retry_samples,
    seat_samples,
    worker_samples,
)


class Observation:
    """只看本角色在做的事：没有连接的进程不报连接。"""

    def __init__(
        self, settings: Settings, node: NodeIdentity, rooms: Rooms, supervisor: Supervisor
    ) -> None:
        bus = rooms.bus
        self.health = Health(supervisor.states)
        self.health.add("redis", bus.redis.ping)
        self.health.add("database", rooms.record.database.ping)
        self.health.add("items", bus.asides.check)
        self.metrics = Metrics()
        self.metrics.add(process_samples)
        self.metrics.add(lambda: aside_samples(bus.asides))
        self.reports = NodeReports(
            Reporter(self.metrics, node, settings.role, __version__),
            bus.redis.lean,
            bus.redis.keys,
            settings.stats_interval_s,
        )
        if settings.role.holds_sockets:
            self._watch_edge(bus, rooms.edge)
            self.metrics.add(lambda: retry_samples(rooms.outcomes.retries))
        if settings.role.serves_api:
            self._watch_meetings(rooms.meetings)
            self.metrics.add(lambda: quota_samples(rooms.access.quota))
        if settings.role.delivers:
            self._watch_workers(rooms.messages, rooms.outcomes)

    def _watch_edge(self, bus: Bus, edge: Edge) -> None:
        metrics, canary = self.metrics, edge.hearing.canary
        push, ack = edge.push_latency, edge.ack_latency
        self.health.add("subscriber", bus.check_subscriber)
        self.health.add("canary", canary.check)
        metrics.add(lambda: edge_samples(edge.manager.statistics()))
        metrics.add(lambda: presence_samples(edge.presence.statistics(), edge.watch.statistics()))
        metrics.add(lambda: control_samples(bus.control.statistics()))
        metrics.add(lambda: canary_samples(canary.statistics()))
        metrics.add(lambda: seat_samples(edge.seats))
        metrics.add(lambda: push_samples(push))
        metrics.add_latency("push", "accepted to pushed", push.histogram)
        metrics.add_latency("ack", "pushed to acknowledged", ack.histogram)

    def _watch_meetings(self, meetings: Meetings) -> None:
        self.health.add("meetings", meetings.check)
        self.metrics.add(lambda: meeting_samples(meetings.hub.statistics()))

    def _watch_workers(self, messages: MessagePath, outcomes: OutcomePath) -> None:
        self.health.add("consumers", messages.consumers.check)
        self.metrics.add(lambda: worker_samples(messages.consumers.statistics()))
        self.metrics.add(lambda: expiry_samples(outcomes.expiry))
        self.metrics.add(lambda: eviction_samples(outcomes.evictions))
