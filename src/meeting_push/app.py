"""组装：唯一认识所有人的文件。

按一条消息走过的次序读：接受（MessageService）→ 入队（OutboxRelay、MessageQueue）→
取出（ConsumerPool）→ 投递（OfflineMessageQueue）→ 推送（ConnectionManager）→
确认（DeliveryConfirmationService）。各站只通过构造函数相识。
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from functools import partial
from typing import Final

from fastapi import APIRouter, FastAPI
from loguru import logger
from ulid import ULID

from .contracts import ChannelRoute, TokenVerifier, UserDirectory
from .errors import MeetingPushError, RedisUnavailableError
from .hearing import NodeHearing
from .model import QueueEntry, Revocation
from .monitoring.health import Health
from .monitoring.latency import AckLatency, PushLatency
from .monitoring.metrics import Metrics
from .monitoring.node_reports import NodeReports
from .monitoring.report import Reporter
from .protocol.codes import CloseCode
from .protocol.forwarded import TrustedProxies
from .protocol.limits import Limits
from .protocol.meeting_limits import MeetingLimits
from .redis.address import RedisAddress
from .redis.broadcast_log import BroadcastLog
from .redis.embedded import EmbeddedRedis
from .redis.generation import GenerationMark
from .redis.keys import Keys
from .redis.meeting_bus import MeetingBus
from .redis.outcomes import Outcomes
from .redis.subscriber import Subscriber
from .repeated_warning import RepeatedWarning
from .router.auth_manage import auth_router, revocation_router, ticket_router
from .router.body_limit import BodyLimit
from .router.broadcast_manage import broadcast_router
from .router.delivery_manage import delivery_router
from .router.errors import install_error_handlers
from .router.meeting_manage import meeting_router, meeting_socket_router
from .router.message_manage import message_router, user_messages_router
from .router.ops import ops_endpoint, ops_router
from .router.presence_manage import presence_router
from .router.queue_manage import queue_router
from .router.security import Security
from .router.stats_manage import stats_router
from .router.web import web_router
from .samples import (
    canary_samples,
    control_samples,
    edge_samples,
    eviction_samples,
    expiry_samples,
    meeting_samples,
    presence_samples,
    process_samples,
    push_samples,
    retry_samples,
    seat_samples,
    worker_samples,
)
from .services.access_tokens import AccessTokens
from .services.auth_service import AuthService
from .services.broadcast_acks import BroadcastAcks
from .services.broadcast_feed import BroadcastFeed
from .services.broadcast_relay import BroadcastRelay
from .services.broadcast_service import BroadcastService
from .services.consumer_pool import ConsumerPool
from .services.control_channel import ControlChannel, Kick
from .services.credentials import Credentials
from .services.dead_letters import DeadLetters
from .services.delivery_confirmation_service import DeliveryConfirmationService
from .services.delivery_failures import DeliveryFailures
from .services.device_seats import DeviceSeats, Replace
from .services.draft_rules import DraftRules
from .services.eviction_recorder import EvictionRecorder
from .services.expiry_sweeper import ExpirySweeper
from .services.known_users import KnownUsers
from .services.meeting_desk import MeetingDesk
from .services.meeting_service import MeetingRules, MeetingService, MeetingStores
from .services.message_consumer import MessageConsumer
from .services.message_publisher import MessagePublisher
from .services.message_queue import MessageQueue
from .services.message_service import MessageService, MessageStores
from .services.offline_message_queue import SEQ_EXTRA_TTL_MS, OfflineMessageQueue
from .services.online_status_service import OnlineStatusService
from .services.outbox_relay import OutboxRelay
from .services.presence_watch import PresenceWatch
from .services.receipts import Receipts
from .services.reconciler import Reconciler, ReconcilerRules
from .services.redis_service import RedisService
from .services.retry_service import RetryService
from .services.revocations import Revocations, Revoke
from .services.secret_file import signing_secret
from .services.stored_bodies import StoredBodies
from .services.ws_tickets import WsTickets
from .settings import Settings
from .storage.broadcasts import BroadcastRepository
from .storage.database import Database
from .storage.generations import GenerationRepository
from .storage.idempotency import IdempotencyRepository
from .storage.inbox import InboxRepository
from .storage.meetings import MeetingRepository
from .storage.messages import MessageRepository
from .storage.outcomes import OutcomeRepository
from .storage.recipients import RecipientRepository
from .storage.reports import DeliveryReports
from .storage.transcripts import TranscriptRepository
from .storage.undelivered import UndeliveredRepository
from .storage.users import UserRepository
from .supervision import Supervisor
from .version import __version__
from .websocket.authenticator import Authenticator
from .websocket.departure import window_s
from .websocket.handshake_limits import HandshakeLimits
from .websocket.manager import ConnectionManager
from .websocket.meeting.hub import MeetingHub
from .websocket.patience import patiently
from .websocket.requests import Sinks

API_PREFIX: Final = "/api/v1"
#: 重订阅之后 Redis 又不在：过这么久再试着重读。
REREAD_RETRY_S: Final = 0.5


class MeetingPush:
    """整个系统的一个节点：构造不做 I/O，``start`` 取得资源，``stop`` 倒序放开。

    内嵌进别人的应用::

        push = MeetingPush(load_settings())
        app = FastAPI(lifespan=push.lifespan)
        app.include_router(push.router)

    ``directory`` 是应用自己的用户表，``verifier`` 是应用自己的令牌；不给就用我们的。
    """

    def __init__(
        self,
        settings: Settings,
        *,
        directory: UserDirectory | None = None,
        verifier: TokenVerifier | None = None,
    ) -> None:
        self.settings = settings
        self.node_id = str(ULID())
        self._stack = contextlib.AsyncExitStack()
        self._supervisor = Supervisor()
        self._stores(settings, directory)
        self._redis_parts(settings)
        self._accounts(settings, verifier)
        self._message_path(settings)
        self._broadcast_path(settings)
        self._edge(settings)
        self._meetings(settings, directory)
        self._observers()
        self.router = self._routes(settings)

    # ── 组装 ────────────────────────────────────────────────────────────────

    def _stores(self, settings: Settings, directory: UserDirectory | None) -> None:
        self.database = Database(settings.sql_url, settings.database_timeout_s)
        messages = MessageRepository(self.database)
        self.stores = MessageStores(
            database=self.database,
            messages=messages,
            inbox=InboxRepository(self.database),
            idempotency=IdempotencyRepository(self.database),
            directory=KnownUsers(directory or UserRepository(self.database)),
        )
        self.recipients = RecipientRepository(self.database)
        self.outcomes = OutcomeRepository(self.database)
        self.undelivered = UndeliveredRepository(self.database)

    def _redis_parts(self, settings: Settings) -> None:
        self._embedded = None if settings.redis_url else EmbeddedRedis(settings.data_dir)
        url = self._embedded.url if self._embedded else settings.redis_url
        assert url is not None
        address, keys = RedisAddress.parse(url), Keys(settings.key_prefix)
        self.redis = RedisService(address, keys, settings.redis_timeout_s)
        self.subscriber = Subscriber(address, keys, timeout_s=settings.redis_timeout_s)

    def _accounts(self, settings: Settings, verifier: TokenVerifier | None) -> None:
        self.control = ControlChannel(self.redis)
        self.revocations = Revocations(settings, self.database, publish=self.control.publish)
        self.revocations.listen(self._disconnect_revoked)
        self.control.on(Revoke, self.revocations.take)
        tokens = AccessTokens(settings, signing_secret(settings))
        self.auth = AuthService(
            settings, self.database, tokens, revocations=self.revocations, redis=self.redis
        )
        self.tickets = WsTickets(self.redis, settings.ws_ticket_ttl_s)
        self.credentials = Credentials(verifier or tokens, self.tickets, self.revocations)

    def _disconnect_revoked(self, revocation: Revocation) -> None:
        self.manager.disconnect_revoked(revocation)
        self.meeting_hub.disconnect_revoked(revocation)

    def _message_path(self, settings: Settings) -> None:
        """一条消息走过的各站，按次序。"""
        self.publisher = MessagePublisher(self.redis, max_bytes=settings.max_content_bytes * 2)
        self.queue = MessageQueue(
            self.redis,
            max_length=settings.queue_max_length,
            starvation_bound=settings.starvation_bound,
            claim_idle_ms=settings.claim_idle_ms,
            max_deliveries=settings.queue_max_deliveries,
            partitions=settings.queue_partitions,
            on_dead=self._record_dead,
        )
        bodies = StoredBodies(self.stores.messages)
        self.mailbox = OfflineMessageQueue(self.redis, bodies, settings)
        receipts = Receipts(self.publisher)
        self.confirmation = DeliveryConfirmationService(
            redis=self.redis,
            recipients=self.recipients,
            reports=DeliveryReports(self.database),
            mailbox=self.mailbox,
            receipts=receipts,
            flush_ms=settings.ack_flush_ms,
            status_ttl_s=settings.message_ttl_s,
        )
        self._outcome_path(settings, receipts)
        self.relay = OutboxRelay(
            messages=self.stores.messages,
            queue=self.queue,
            mailbox=self.mailbox,
            confirmation=self.confirmation,
            chunk_recipients=settings.queue_chunk_recipients,
            interval_s=settings.relay_interval_s,
            grace_s=settings.relay_grace_s,
        )
        self.messages = MessageService(
            self.stores,
            rules=DraftRules.from_settings(settings),
            relay=self.relay,
            queue=self.queue,
            mailbox=self.mailbox,
            publisher=self.publisher,
        )
        self.consumers = ConsumerPool(
            partial(self._consumer, settings, RepeatedWarning("consumer_waits")),
            self.queue,
            least=settings.consumer_tasks,
            most=settings.consumer_tasks_max,
            entries_each=settings.consumer_batch_entries,
            stuck_after_s=settings.consumer_stall_s,
        )
        self.reconciler = self._reconciler(settings)

    async def _record_dead(self, entry: QueueEntry, reason: str) -> None:
        """队列里做不了的一项：收件人记为失败；死信由队列自己写，整项一封。"""
        pairs = [(entry.message_id, user_id) for user_id in entry.recipient_ids]
        await self.failures.fail(pairs, reason, letters=False)

    def _reconciler(self, settings: Settings) -> Reconciler:
        return Reconciler(
            self.node_id,
            mark=GenerationMark(self.redis.lean, self.redis.keys),
            generations=GenerationRepository(self.database),
            undelivered=self.undelivered,
            queue=self.queue,
            mailbox=self.mailbox,
            relay=self.relay,
            rules=ReconcilerRules(
                settings.reconcile_interval_s,
                settings.straggler_interval_s,
                int(settings.straggler_after_s * 1000),
            ),
            on_generation=self._on_generation,
        )

    def _broadcast_path(self, settings: Settings) -> None:
        """一条广播走过的各站：接受 → 记日志并发布 → 各节点的目录 → 确认。"""
        ttl_ms = settings.message_ttl_s * 1000
        record = BroadcastRepository(self.database)
        log = BroadcastLog(
            self.redis.lean,
            self.redis.keys,
            log_ttl_ms=ttl_ms,
            cursor_ttl_ms=ttl_ms + SEQ_EXTRA_TTL_MS,
        )
        self.broadcast_relay = BroadcastRelay(
            record, log, self.mailbox, interval_s=settings.relay_interval_s
        )
        self.broadcasts = BroadcastService(
            database=self.database,
            record=record,
            idempotency=self.stores.idempotency,
            rules=DraftRules.from_settings(settings),
            relay=self.broadcast_relay,
        )
        self._reread = asyncio.Event()
        self.broadcast_feed = BroadcastFeed(log, self.mailbox, self._reread.set)
        self.broadcast_acks = BroadcastAcks(
            self.confirmation, self.broadcast_feed, log, record, flush_ms=settings.ack_flush_ms
        )

    def _outcome_path(self, settings: Settings, receipts: Receipts) -> None:
        """没有等到确认的：重试、失败、过期、被挤出信箱。"""
        outcomes = Outcomes(self.redis.lean, self.redis.keys, settings.message_ttl_s * 1000)
        self.failures = DeliveryFailures(
            outcomes=outcomes,
            record=self.outcomes,
            recipients=self.recipients,
            mailbox=self.mailbox,
            receipts=receipts,
        )
        self.retries = RetryService(
            outcomes=outcomes,
            record=self.outcomes,
            failures=self.failures,
            max_attempts=len(settings.retry_delays_s),
        )
        self.dead_letters = DeadLetters(
            self.redis,
            self.failures,
            streams=[keys.dead_letter for keys in self.queue.partitions],
        )
        self.expiry = ExpirySweeper(
            redis=self.redis,
            outcomes=outcomes,
            record=self.outcomes,
            dead_letters=self.dead_letters,
            receipts=receipts,
            node_id=self.node_id,
            interval_s=settings.expiry_interval_s,
        )
        self.evictions = EvictionRecorder(
            self.redis, self.failures.fail, interval_s=settings.relay_interval_s
        )

    def _consumer(self, settings: Settings, waits: RepeatedWarning, index: int) -> MessageConsumer:
        return MessageConsumer(
            f"{self.node_id}-{index}",
            self.queue,
            self.mailbox,
            batch_entries=settings.consumer_batch_entries,
            block_ms=settings.consumer_block_ms,
            claim_every_ms=settings.claim_idle_ms // 2,
            waits=waits,
        )

    def _edge(self, settings: Settings) -> None:
        keys = self.redis.keys
        routes: dict[bytes, ChannelRoute] = {}
        self.presence = OnlineStatusService(self.redis, self.node_id, settings)
        self.watch = PresenceWatch(self.subscriber, routes, self.presence, keys, settings)
        self.control.on(Kick, self._kick)
        self.control.on(Replace, self._replace)
        routes[keys.system_channel.encode()] = self.control.take
        self.seats = DeviceSeats(self.redis, self.node_id, settings)
        self.push_latency, self.ack_latency = PushLatency(), AckLatency(self.broadcast_acks)
        self.manager = ConnectionManager(
            authenticator=Authenticator(
                self.credentials,
                settings.allowed_origins,
                sources=settings.ws_token_sources,
                limits=HandshakeLimits(settings),
                proxies=TrustedProxies(settings.trusted_proxies),
            ),
            channels=self.subscriber,
            mailbox=self.mailbox,
            sinks=Sinks(
                acks=self.ack_latency,
                presence=self.presence,
                reads=self.messages,
                watches=self.watch,
                retries=self.retries,
            ),
            keys=self.redis.keys,
            limits=Limits.of(settings),
            node_id=self.node_id,
            routes=routes,
            seats=self.seats,
            on_push=self.push_latency,
            broadcasts=self.broadcast_feed,
        )
        self.hearing = NodeHearing(
            self.redis, self.subscriber, self.manager, settings, self._reread.set
        )
        canary = self.hearing.canary
        routes[canary.channel.encode()] = canary.hear

    def _kick(self, command: Kick) -> None:
        self._disconnect(command.user_id, (command.connection_id,), CloseCode.KICKED)

    def _replace(self, command: Replace) -> None:
        self._disconnect(command.user_id, command.connection_ids, CloseCode.REPLACED)

    def _disconnect(self, user_id: int, connection_ids: Collection[str], code: CloseCode) -> None:
        for connection in self.manager.get_user_connections(user_id):
            if connection.connection_id in connection_ids:
                self.manager.disconnect_user(user_id, connection, code)

    def _meetings(self, settings: Settings, directory: UserDirectory | None) -> None:
        """会议：自己的 Redis 连接与上限；由有 FastAPI 的角色（all、api）提供。"""
        meetings = MeetingRepository(self.database)
        transcripts = TranscriptRepository(self.database)
        self.meeting_bus = MeetingBus(
            self.redis.address,
            self.redis.keys,
            ttl_ms=int(settings.meeting_refresh_s * 3000),
            timeout_s=settings.redis_timeout_s,
        )
        self.meetings = MeetingService(
            MeetingStores(
                database=self.database,
                meetings=meetings,
                transcripts=transcripts,
                directory=self.stores.directory,
                names=UserRepository(self.database) if directory is None else None,
            ),
            rules=MeetingRules.of(settings),
            messages=self.messages,
            bus=self.meeting_bus,
        )
        self.meeting_hub = MeetingHub(
            authenticator=self.manager.authenticator,
            desk=MeetingDesk(meetings, transcripts),
            bus=self.meeting_bus,
            limits=MeetingLimits.of(settings),
        )

    def _observers(self) -> None:
        self.health = Health(self._supervisor.states)
        self.health.add("redis", self.redis.ping)
        self.health.add("database", self.database.ping)
        self.metrics = Metrics()
        self.metrics.add(process_samples)
        self.ops_endpoint = ops_endpoint(self.health, self.metrics)
        self.reports = NodeReports(
            Reporter(self.metrics, self.node_id, self.settings.role, __version__),
            self.redis.lean,
            self.redis.keys,
            self.settings.stats_interval_s,
        )
        if self.settings.role.holds_sockets:
            self._observe_edge()
        if self.settings.role.serves_api:
            self.health.add("meetings", self._check_meetings)
            self.metrics.add(lambda: meeting_samples(self.meeting_hub.statistics()))
            self.metrics.add(lambda: retry_samples(self.retries))
        if self.settings.role.delivers:
            self.health.add("consumers", self.consumers.check)
            self.metrics.add(lambda: worker_samples(self.consumers.statistics()))
            self.metrics.add(lambda: expiry_samples(self.expiry))
            self.metrics.add(lambda: eviction_samples(self.evictions))

    def _observe_edge(self) -> None:
        health, metrics, canary = self.health, self.metrics, self.hearing.canary
        push, ack = self.push_latency, self.ack_latency
        health.add("subscriber", self._check_subscriber)
        health.add("canary", canary.check)
        metrics.add(lambda: edge_samples(self.manager.statistics()))
        metrics.add(lambda: presence_samples(self.presence.statistics(), self.watch.statistics()))
        metrics.add(lambda: control_samples(self.control.statistics()))
        metrics.add(lambda: canary_samples(canary.statistics()))
        metrics.add(lambda: seat_samples(self.seats))
        metrics.add(lambda: push_samples(push))
        metrics.add_latency("push", "accepted to pushed", push.histogram)
        metrics.add_latency("ack", "pushed to acknowledged", ack.histogram)

    async def _count_online(self) -> int:
        return int(await self.redis.lean.execute("ZCARD", self.redis.keys.online_users_set))

    async def _check_subscriber(self) -> None:
        if not self.subscriber.connected:
            raise RedisUnavailableError("not subscribed")

    async def _check_meetings(self) -> None:
        if not self.meeting_bus.connected:
            raise RedisUnavailableError("not subscribed")

    def _routes(self, settings: Settings) -> APIRouter:
        router = APIRouter()
        router.include_router(ops_router(self.health, self.metrics))
        if settings.role.serves_api:
            security = Security(self.credentials, settings.trusted_proxies)
            api = APIRouter(prefix=API_PREFIX)
            api.include_router(auth_router(self.auth, security))
            api.include_router(ticket_router(self.tickets, security))
            api.include_router(revocation_router(self.revocations, security))
            api.include_router(
                message_router(
                    self.messages,
                    self.confirmation,
                    security.current_principal,
                    broadcasts=self.broadcasts,
                    max_batch_messages=settings.max_batch_messages,
                )
            )
            api.include_router(presence_router(self.presence, self.control, security))
            api.include_router(stats_router(self.reports, self.queue, self._count_online, security))
            api.include_router(meeting_router(self.meetings, security.current_principal))
            api.include_router(
                delivery_router(
                    self.confirmation,
                    self.failures,
                    self.mailbox,
                    security.current_principal,
                    security.require_admin,
                )
            )
            api.include_router(queue_router(self.queue, self.dead_letters, security.require_admin))
            api.include_router(broadcast_router(self.broadcasts, security.require_admin))
            router.include_router(api)
            router.include_router(meeting_socket_router(self.meeting_hub))
            router.include_router(web_router())
        if settings.role.holds_sockets:
            router.include_router(user_messages_router(self.manager))
        return router

    # ── 生与死 ───────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """取得资源并启动本角色的循环；中途失败则已取得的全部放开。

        :raises ConfigurationError: 配置与现实不符
        :raises UnavailableError: Redis 或数据库连不上
        """
        async with contextlib.AsyncExitStack() as stack:
            if self._embedded is not None:
                await self._embedded.start()
                stack.push_async_callback(self._embedded.stop)
            await self.database.migrate()
            stack.push_async_callback(self.database.dispose)
            await self.redis.start()
            stack.push_async_callback(self.redis.close)
            await self.revocations.refresh()
            stack.push_async_callback(self.queue.close)
            await self.reconciler.prepare()
            await self._start_loops(stack)
            self._stack = stack.pop_all()

    async def _start_loops(self, stack: contextlib.AsyncExitStack) -> None:
        role, start = self.settings.role, self._supervisor.start
        if role.holds_sockets:
            stack.push_async_callback(self.presence.close)
        stack.push_async_callback(self.reports.withdraw)
        stack.push_async_callback(self._supervisor.stop)
        start("node-report", self.reports.run)
        start("presence-reap", self.presence.reaper.run)
        if role.serves_api or role.holds_sockets:
            start("revocations", self.revocations.run)
        start("outbox-sweep", self.relay.run_sweep)
        start("outbox-fast", self.relay.run_fast)
        start("outbox-mark", self.relay.run_mark)
        start("reconciler", self.reconciler.run)
        start("broadcast-relay", self.broadcast_relay.run)
        if role.delivers:
            self.consumers.start(self._supervisor)
            start("expiry-sweep", self.expiry.run)
            start("evictions", self.evictions.run)
        if role.holds_sockets:
            await self._start_edge(stack)
        if role.serves_api:
            await self._start_meetings(stack)

    async def _start_meetings(self, stack: contextlib.AsyncExitStack) -> None:
        hub = self.meeting_hub
        await self.meeting_bus.start(hub.on_channel_message, hub.keeper.resubscribed)
        stack.push_async_callback(self.meeting_bus.close)
        self._supervisor.start("meeting-keeper", hub.keeper.run)
        self._supervisor.start("meeting-sweep", hub.heartbeat.run)

    async def _start_edge(self, stack: contextlib.AsyncExitStack) -> None:
        await self.subscriber.start(self.manager.on_channel_message, self._on_resubscribed)
        stack.push_async_callback(self.subscriber.close)
        keys = self.redis.keys
        own = (keys.broadcast_channel, keys.system_channel, self.hearing.canary.channel)
        for channel in own:
            await self.subscriber.subscribe_channel(channel)
        await patiently(self.broadcast_feed.refresh)  # 先订阅，后读日志：中间到的已在目录里
        self._supervisor.start("confirm", self.confirmation.run)
        self._supervisor.start("broadcast-confirm", self.broadcast_acks.run)
        self._supervisor.start("retry", self.retries.run)
        self._supervisor.start("heartbeat-sweep", self.manager.heartbeat.run)
        self._supervisor.start("seats", self.seats.run)
        self._supervisor.start("seat-renewal", self.seats.run_renewal)
        self._supervisor.start("canary", self.hearing.canary.run)
        self._supervisor.start("evacuation", self.hearing.run)
        self._supervisor.start("reread", self._reread_loop)
        self._supervisor.start("presence-watch", self.watch.run)
        await self.presence.start(self._supervisor)

    def _on_resubscribed(self) -> None:
        """断过又订上了：这期间的发布没有收到，要重读信箱、重写在线状态。"""
        self._reread.set()
        self.presence.resync()
        self.seats.resync()
        self.watch.resync()
        self.hearing.canary.resubscribed()

    def _on_generation(self) -> None:
        """Redis 丢过数据：每条连接都要知道新的 epoch。"""
        self._reread.set()

    async def _reread_loop(self) -> None:
        while True:
            await self._reread.wait()
            self._reread.clear()
            if await self._refresh_broadcasts():
                await self.manager.reread_all()

    async def _refresh_broadcasts(self) -> bool:
        """False：Redis 又不在了，稍后再来。"""
        try:
            await self.broadcast_feed.refresh()
        except MeetingPushError as error:
            logger.bind(code=error.code).warning("broadcast_log_not_read")
            if error.temporary:
                asyncio.get_running_loop().call_later(REREAD_RETRY_S, self._reread.set)
                return False
        return True

    async def drain(self) -> None:
        """停止服务的前半，次序的道理见 ``docs/operations.md``；之后 ``stop`` 放开其余的。"""
        role, grace_s = self.settings.role, self.settings.shutdown_grace_s
        self.health.drain()
        if role.holds_sockets:
            self.hearing.leave()
            self.manager.refuse(CloseCode.SERVER_DRAINING)
        if role.delivers:
            await self.consumers.drain()
        await asyncio.gather(self._close_meetings(), self._close_users())
        if role.holds_sockets:
            await asyncio.gather(
                self.confirmation.drain(grace_s), self.broadcast_acks.drain(grace_s)
            )

    async def _close_meetings(self) -> None:
        if self.settings.role.serves_api:
            sockets = self.meeting_hub.statistics().sockets
            spread_s = window_s(sockets, self.settings.drain_window_s)
            await self.meeting_hub.close_all(CloseCode.SERVER_DRAINING, spread_s)

    async def _close_users(self) -> None:
        if self.settings.role.holds_sockets:
            sockets = self.manager.statistics().sockets
            spread_s = window_s(sockets, self.settings.drain_window_s)
            await self.manager.close_all(CloseCode.SERVER_DRAINING, spread_s)
            await self.seats.drain()

    async def stop(self) -> None:
        """倒序放开全部资源；可重复调用。"""
        await self._stack.aclose()

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """给 ``FastAPI(lifespan=…)``。"""
        await self.start()
        try:
            yield
        finally:
            await self.drain()
            await self.stop()


def create_app(push: MeetingPush) -> FastAPI:
    """我们自己的服务器用的 FastAPI 应用；生命周期由 ``server.py`` 管。"""
    app = FastAPI(
        title="meeting-push",
        description="用户级实时推送：接受、投递、确认。",
        version=__version__,
    )
    app.add_middleware(BodyLimit, max_bytes=push.settings.max_request_bytes)
    install_error_handlers(app)
    app.include_router(push.router)
    return app
