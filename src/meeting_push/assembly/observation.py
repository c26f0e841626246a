"""看得见：就绪、指标、各进程的报告。都是被拉取的快照。

所有的房间，给看着它们的人：观察与路由。

舰队：这个节点与别的节点合不合，只有它自己够不到 Redis 时怎么办。
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from loguru import logger

from ..errors import MeetingPushError
from ..monitoring.delivery_samples import (
    aside_samples,
    clock_samples,
    eviction_samples,
    expiry_samples,
    quota_samples,
    recovery_samples,
    refused_samples,
    retry_samples,
    worker_samples,
)
from ..monitoring.edge_samples import (
    canary_samples,
    control_samples,
    edge_samples,
    meeting_samples,
    presence_samples,
    push_samples,
    seat_samples,
)
from ..monitoring.health import Health
from ..monitoring.metrics import Metrics
from ..monitoring.process_samples import process_samples
from ..monitoring.refused_requests import RefusedRequests
from ..monitoring.report import NodeReports, Reporter
from ..monitoring.serve_files import ServeFiles
from ..node.fleet_membership import CutOff, FleetMembership
from ..node_identity import NodeIdentity
from ..redis.presence import ReportBoard
from ..redis.probe import RedisProbe
from ..settings import Role, Settings
from ..storage.fleet import NodeRepository
from ..supervision import Supervisor
from ..version import __version__
from .edge import Edge, Meetings
from .ground import Access, Bus, Record
from .message_path import BroadcastPath, MessagePath, OutcomePath, Recovery


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """次序即消息的次序。"""

    record: Record
    bus: Bus
    access: Access
    messages: MessagePath
    outcomes: OutcomePath
    broadcasts: BroadcastPath
    recovery: Recovery
    edge: Edge
    meetings: Meetings


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
        *("reconciler", "node-report", "presence-reap", "metrics"),
    }
)


class Observation:
    """只看本角色在做的事：没有连接的进程不报连接。"""

    def __init__(
        self, settings: Settings, node: NodeIdentity, rooms: Rooms, supervisor: Supervisor
    ) -> None:
        bus, role = rooms.bus, settings.process.role
        self.health = Health(
            supervisor.states, lambda loop: role is Role.ALL or loop not in _ANYBODYS_LOOPS
        )
        self.fleet = Fleet(settings, node, rooms, lambda: self.health.hears(*_HEARING))
        self.health.add("redis", self.fleet.probe.check, essential=role is not Role.API)
        self.health.add("database", self.fleet.membership.beat, essential=role.serves_api)
        self.health.add("claim", rooms.recovery.claim.check)
        self.health.add("fleet", self.fleet.membership.check)
        self.health.add("agreement", self.fleet.membership.check_others, essential=False)
        self.health.add("items", bus.asides.check)
        file = settings.process.metrics_file
        self.metrics = Metrics(None if file is None else ServeFiles(file))
        self.refused = RefusedRequests()
        self.metrics.add(process_samples)
        self.metrics.add(lambda: aside_samples(bus.asides))
        self.metrics.add(lambda: clock_samples(bus.clock))
        self.metrics.add(lambda: eviction_samples(rooms.outcomes.evictions))
        self.metrics.add(lambda: recovery_samples(**asdict(rooms.recovery.reconciler.statistics)))
        self.reports = NodeReports(
            Reporter(self.metrics, node, role, __version__),
            ReportBoard(bus.redis.client, bus.redis.keys),
            settings.node.stats_interval_s,
        )
        if role.holds_sockets:
            self._watch_edge(bus, rooms.edge)
            self.metrics.add(lambda: retry_samples(rooms.outcomes.retries))
        if role.serves_api:
            self._watch_meetings(rooms.meetings, essential=role is Role.ALL)
            self.metrics.add(lambda: quota_samples(rooms.access.quota))
            self.metrics.add(lambda: refused_samples(self.refused))
        if role.delivers:
            self._watch_workers(rooms.messages, rooms.outcomes)

    def _watch_edge(self, bus: Bus, edge: Edge) -> None:
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
        metrics.add(lambda: push_samples(push))
        metrics.add_latency("push", "accepted to pushed", push.histogram)
        metrics.add_latency("ack", "pushed to acknowledged", ack.histogram)

    def start(self, supervisor: Supervisor, stack: contextlib.AsyncExitStack) -> None:
        self.fleet.start(supervisor, stack)
        supervisor.start("health", self.health.run)
        if self.metrics.shared:
            stack.callback(self.metrics.leave)
            supervisor.start("metrics", self.metrics.run)

    def _watch_meetings(self, meetings: Meetings, *, essential: bool) -> None:
        self.health.add("meetings", meetings.check, essential=essential)
        self.metrics.add(lambda: meeting_samples(meetings.hub.statistics()))

    def _watch_workers(self, messages: MessagePath, outcomes: OutcomePath) -> None:
        self.health.add("consumers", messages.consumers.check)
        self.metrics.add(lambda: worker_samples(messages.consumers.statistics()))
        self.metrics.add(lambda: expiry_samples(outcomes.expiry))
