"""边缘：握着用户的连接，推送，收下确认；谁在线、几台设备、听不听得见。

会议：自己的 Redis 连接与上限（ISO-1）；由有 FastAPI 的角色（all、api）提供。
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from ..contracts import ChannelRoute, Newcomer, Opened, Unfinished
from ..deliver.offline_message_queue import OfflineMessageQueue
from ..errors import RedisUnavailableError
from ..limits.rate import TrustedProxies
from ..meeting.hub import MeetingHub, limits_of_meetings
from ..meeting.service import MeetingDesk, MeetingService
from ..monitoring.latency import AckLatency, PushLatency
from ..node.control_channel import Kick
from ..node_identity import NodeIdentity
from ..presence.online_events import OnlineEvents
from ..presence.online_status_service import OnlineStatusService
from ..presence.seats import DeviceSeats, Replace
from ..presence.watch import PresenceWatch
from ..protocol.codes import CloseCode
from ..protocol.limits import Limits
from ..redis.arrivals import Arrivals
from ..redis.meeting_bus import MeetingBus
from ..settings import Settings
from ..supervision import Supervisor
from ..websocket.admission import HandshakeLimits, limits_of
from ..websocket.handshake import Authenticator
from ..websocket.hearing import Dismissals, NodeHearing, Rereading
from ..websocket.lines import window_s
from ..websocket.manager import ConnectionManager
from ..websocket.ops_feed import OpsFeed
from ..websocket.requests import Sinks
from ..websocket.rest_acks import RestAcks
from .ground import Access, Bus, Record
from .message_path import BroadcastPath, MessagePath, OutcomePath


def _limits(settings: Settings) -> Limits:
    return limits_of(settings.edge, settings.admission, settings.delivery, settings.redis)


class _Arrivals:
    """实现 ``contracts.Arrivals``：各站从同一次往返里取各自的。"""

    def __init__(
        self, bus: Bus, seats: DeviceSeats, mailbox: OfflineMessageQueue, broadcasts: BroadcastPath
    ) -> None:
        redis, boxes = bus.redis, mailbox.boxes
        self._store = Arrivals(
            redis.lean, redis.keys, seats.store, boxes, broadcasts.log, bus.clock
        )
        self.begin = self._store.begin
        self._seats = seats
        self._mailbox = mailbox
        self._feed = broadcasts.feed

    async def finish(self, who: Newcomer, unfinished: Unfinished) -> Opened | None:
        arrived = await self._store.open(who, self._feed.newest, unfinished.answer)
        if not self._seats.took(who.user_id, who.connection_id, arrived and arrived.seat):
            return None
        assert arrived is not None, "somebody seated has arrived"
        return Opened(
            await self._mailbox.view(who.user_id, arrived.mailbox, who.resume),
            await self._feed.view(who.user_id, arrived.cursor),
        )


class Edge:
    def __init__(
        self,
        settings: Settings,
        node: NodeIdentity,
        *,
        record: Record,
        bus: Bus,
        access: Access,
        messages: MessagePath,
        outcomes: OutcomePath,
        broadcasts: BroadcastPath,
        settled: Callable[[], Awaitable[bool]],
    ) -> None:
        """``settled``：见 ``Reconciler.settled``。"""
        self._settings = settings
        self._bus = bus
        self._confirmation = messages.confirmation
        self._retries = outcomes.retries
        self._broadcasts = broadcasts
        keys = bus.redis.keys
        routes: dict[bytes, ChannelRoute] = {}
        self.online_events = OnlineEvents(record.database, bus.clock)
        self.presence = OnlineStatusService(
            bus.redis,
            node,
            settings.presence,
            settings.edge,
            aside=bus.asides.of("presence"),
            turned=self.online_events.note,
            clock=bus.clock,
        )
        people = record.people
        self.watch = PresenceWatch(
            bus.subscriber, routes, self.presence, keys, settings.presence, people.person
        )
        self.seats = DeviceSeats(bus.redis, node, settings.presence, aside=bus.asides.of("seats"))
        self.push_latency = PushLatency()
        self.ack_latency = AckLatency(broadcasts.acks, bus.recorder)
        measures = settings.node.metrics
        self.manager = ConnectionManager(
            authenticator=Authenticator(
                access.credentials,
                settings.handshake.allowed_origins,
                sources=settings.handshake.token_sources,
                limits=HandshakeLimits(settings.handshake),
                proxies=TrustedProxies(settings.http.trusted_proxies),
                ids=people.ids,
            ),
            channels=bus.subscriber,
            mailbox=messages.mailbox,
            sinks=Sinks(
                acks=self.ack_latency if measures else broadcasts.acks,
                presence=self.presence.ledger,
                reads=messages.messages,
                watches=self.watch,
                retries=outcomes.retries,
                people=people,
                ops=OpsFeed(bus.clock),
            ),
            keys=keys,
            limits=_limits(settings),
            node=node,
            routes=routes,
            seats=self.seats,
            arrivals=_Arrivals(bus, self.seats, messages.mailbox, broadcasts),
            on_push=self.push_latency if measures else None,
            broadcasts=broadcasts.feed,
            recorder=bus.recorder,
            clock=bus.clock,
        )
        self.rest_acks = RestAcks(
            self.manager,
            broadcasts.acks,
            presence=self.presence.get_user_connections,
            control=bus.control,
            redis=bus.redis,
            refresh=None if settings.process.role.holds_sockets else broadcasts.feed.refresh,
            clock=bus.clock,
        )
        self.hearing = NodeHearing(
            bus.redis, bus.subscriber, self.manager, settings.node, routes, bus.reread.set
        )
        self._routes = routes
        routes[keys.system_channel.encode()] = bus.control.take
        self._rereading = Rereading(bus.reread, self.manager, broadcasts.feed.refresh, settled)
        self.dismissals = Dismissals(self.manager)
        bus.control.on(Kick, self.dismissals.kick)
        bus.control.on(Replace, self._replace)
        access.revocations.listen(self.manager.disconnect_revoked)

    def _replace(self, command: Replace) -> None:
        self.dismissals.replace(command.user_id, command.connection_ids)

    # ── 生 ──────────────────────────────────────────────────────────────────

    async def start(self, supervisor: Supervisor, stack: contextlib.AsyncExitStack) -> None:
        """开始听，再让各循环跑起来；确认与重试的写入也在这里：它们从连接来。"""
        await self._listen(stack)
        self.start_acks(supervisor, stack)
        supervisor.start("retry", self._retries.run)
        supervisor.start("heartbeat-sweep", self.manager.heartbeat.run)
        supervisor.start("seats", self.seats.run)
        supervisor.start("seat-renewal", self.seats.run_renewal)
        supervisor.start("canary", self.hearing.canary.run)
        supervisor.start("evacuation", self.hearing.run)
        supervisor.start("reread", self._rereading.run)
        supervisor.start("presence-watch", self.watch.run)
        supervisor.start("ops-feed", self.manager.ops.run)
        await self.presence.start(supervisor)

    def start_acks(self, supervisor: Supervisor, stack: contextlib.AsyncExitStack) -> None:
        """确认也从 REST 来：没有连接的 API 进程只要这些。"""
        stack.push_async_callback(self.rest_acks.close)
        supervisor.start("confirm", self._confirmation.run)
        supervisor.start("broadcast-confirm", self._broadcasts.acks.run)

    async def _listen(self, stack: contextlib.AsyncExitStack) -> None:
        subscriber, keys = self._bus.subscriber, self._bus.redis.keys
        await subscriber.start(self.manager.on_channel_message, self._on_resubscribed)
        stack.push_async_callback(subscriber.close)
        self.hearing.channels()
        await self._bus.subscribe(keys.broadcast_channel, keys.system_channel)
        # 先订阅，后读日志：中间到的已在目录里
        await self._broadcasts.feed.refresh()

    def _on_resubscribed(self) -> None:
        """断过又订上了：这期间的发布没有收到，要重读信箱、重写在线状态。"""
        self._bus.reread.set()
        self.presence.resync()
        self.seats.resync()
        self.watch.resync()
        self.hearing.canary.resubscribed()

    # ── 死（次序见 ``MeetingPush.drain``） ──────────────────────────────────────

    def refuse(self) -> None:
        """新来的一升级就请走；听力好坏也不再开门关门。"""
        self.hearing.leave()
        self.manager.refuse(CloseCode.SERVER_DRAINING)

    async def send_off(self) -> None:
        """送走全部客人，让出座位。"""
        sockets = self.manager.statistics().sockets
        spread_s = window_s(sockets, self._settings.node.drain_window_s)
        await self.manager.close_all(CloseCode.SERVER_DRAINING, spread_s)
        await self.seats.drain()

    async def finish_acks(self) -> None:
        """已收下的确认写完。"""
        grace_s = self._settings.process.shutdown_grace_s
        await asyncio.gather(
            self._confirmation.drain(grace_s), self._broadcasts.acks.drain(grace_s)
        )


class Meetings:
    """与用户连接共用一个 ``Authenticator``：握手的限速合在一起算。"""

    def __init__(
        self,
        settings: Settings,
        *,
        record: Record,
        bus: Bus,
        access: Access,
        messages: MessagePath,
        edge: Edge,
    ) -> None:
        self._drain_window_s = settings.node.drain_window_s
        self._holds_sockets = settings.process.role.holds_sockets
        self._seats = edge.seats
        stores = record.meeting_stores
        self.bus = MeetingBus(
            bus.redis.address,
            bus.redis.keys,
            ttl_ms=int(settings.meeting.refresh_s * 3000),
            timeout_s=settings.redis.timeout_s,
        )
        self.service = MeetingService(
            stores,
            rules=settings.meeting,
            messages=messages.messages,
            bus=self.bus,
            people=record.people,
            clock=bus.clock,
        )
        self.hub = MeetingHub(
            authenticator=edge.manager.authenticator,
            desk=MeetingDesk(stores.meetings, stores.transcripts, record.people, bus.clock),
            bus=self.bus,
            limits=limits_of_meetings(settings.meeting, _limits(settings)),
            admission=edge.manager.admission,
            seats=edge.seats,
            clock=bus.clock,
        )
        access.revocations.listen(self.hub.disconnect_revoked)
        edge.dismissals.also_replaced(self.hub.replaced)

    async def start(self, supervisor: Supervisor, stack: contextlib.AsyncExitStack) -> None:
        hub = self.hub
        await self.bus.start(hub.on_channel_message, hub.keeper.resubscribed)
        stack.push_async_callback(self.bus.close)
        supervisor.start("meeting-keeper", hub.keeper.run)
        supervisor.start("meeting-sweep", hub.heartbeat.run)
        if not self._holds_sockets:  # 不然边缘已经让它们跑着
            supervisor.start("seats", self._seats.run)
            supervisor.start("seat-renewal", self._seats.run_renewal)

    async def send_off(self) -> None:
        """送走会议里的客人。"""
        spread_s = window_s(self.hub.statistics().sockets, self._drain_window_s)
        await self.hub.close_all(CloseCode.SERVER_DRAINING, spread_s)
        await self._seats.drain()

    async def check(self) -> None:
        if not self.bus.connected:
            raise RedisUnavailableError("not subscribed")
