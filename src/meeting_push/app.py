"""组装：唯一认识所有人的文件。

按一条消息走过的次序读：接受（MessageService）→ 入队（OutboxRelay、MessageQueue）→
取出（ConsumerPool）→ 投递（OfflineMessageQueue）→ 推送（ConnectionManager）→
确认（DeliveryConfirmationService）。各站只通过构造函数相识。
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from fastapi import APIRouter, FastAPI
from loguru import logger
from ulid import ULID

from .contracts import TokenVerifier, UserDirectory
from .errors import MeetingPushError, RedisUnavailableError
from .monitoring.health import Health
from .monitoring.metrics import Metrics
from .protocol.codes import CloseCode
from .protocol.limits import Limits
from .redis.address import RedisAddress
from .redis.broadcast_log import BroadcastLog
from .redis.embedded import EmbeddedRedis
from .redis.keys import Keys
from .redis.subscriber import Subscriber
from .router.auth_manage import auth_router
from .router.body_limit import BodyLimit
from .router.broadcast_manage import broadcast_router
from .router.errors import install_error_handlers
from .router.message_manage import message_router, user_messages_router
from .router.ops import ops_endpoint, ops_router
from .router.security import Security
from .router.web import web_router
from .samples import edge_samples, worker_samples
from .services.access_tokens import AccessTokens
from .services.auth_service import AuthService
from .services.broadcast_acks import BroadcastAcks
from .services.broadcast_feed import BroadcastFeed
from .services.broadcast_relay import BroadcastRelay
from .services.broadcast_service import BroadcastService
from .services.delivery_confirmation_service import DeliveryConfirmationService
from .services.draft_rules import DraftRules
from .services.eviction_recorder import EvictionRecorder
from .services.known_users import KnownUsers
from .services.message_consumer import ConsumerPool, MessageConsumer
from .services.message_publisher import MessagePublisher
from .services.message_queue import MessageQueue
from .services.message_service import MessageService, MessageStores
from .services.offline_message_queue import SEQ_EXTRA_TTL_MS, OfflineMessageQueue
from .services.online_status_service import OnlineStatusService
from .services.outbox_relay import OutboxRelay
from .services.redis_service import RedisService
from .services.secret_file import signing_secret
from .services.stored_bodies import StoredBodies
from .settings import Settings
from .storage.broadcasts import BroadcastRepository
from .storage.database import Database
from .storage.evictions import EvictionRepository
from .storage.idempotency import IdempotencyRepository
from .storage.inbox import InboxRepository
from .storage.messages import MessageRepository
from .storage.recipients import RecipientRepository
from .storage.users import UserRepository
from .supervision import Supervisor
from .version import __version__
from .websocket.authenticator import Authenticator
from .websocket.manager import ConnectionManager
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

    def _redis_parts(self, settings: Settings) -> None:
        self._embedded = None if settings.redis_url else EmbeddedRedis(settings.data_dir)
        url = self._embedded.url if self._embedded else settings.redis_url
        assert url is not None
        address, keys = RedisAddress.parse(url), Keys(settings.key_prefix)
        self.redis = RedisService(address, keys, settings.redis_timeout_s)
        self.subscriber = Subscriber(address, keys, timeout_s=settings.redis_timeout_s)

    def _accounts(self, settings: Settings, verifier: TokenVerifier | None) -> None:
        tokens = AccessTokens(settings, signing_secret(settings))
        self.auth = AuthService(settings, self.database, tokens)
        self.verifier: TokenVerifier = verifier or self.auth

    def _message_path(self, settings: Settings) -> None:
        """一条消息走过的各站，按次序。"""
        self.publisher = MessagePublisher(self.redis, max_bytes=settings.max_content_bytes * 2)
        self.queue = MessageQueue(
            self.redis,
            max_length=settings.queue_max_length,
            starvation_bound=settings.starvation_bound,
            claim_idle_ms=settings.claim_idle_ms,
        )
        bodies = StoredBodies(self.stores.messages)
        self.mailbox = OfflineMessageQueue(self.redis, bodies, settings)
        self.confirmation = DeliveryConfirmationService(
            redis=self.redis,
            recipients=self.recipients,
            mailbox=self.mailbox,
            publisher=self.publisher,
            flush_ms=settings.ack_flush_ms,
            status_ttl_s=settings.message_ttl_s,
        )
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
            [self._consumer(index, settings) for index in range(settings.consumer_tasks)],
            self.queue,
        )
        self.evictions = EvictionRecorder(
            self.redis,
            EvictionRepository(self.database).record_failed,
            interval_s=settings.relay_interval_s,
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

    def _consumer(self, index: int, settings: Settings) -> MessageConsumer:
        return MessageConsumer(
            f"{self.node_id}-{index}",
            self.redis,
            self.queue,
            self.mailbox,
            batch_entries=settings.consumer_batch_entries,
            block_ms=settings.consumer_block_ms,
            claim_every_ms=settings.claim_idle_ms // 2,
        )

    def _edge(self, settings: Settings) -> None:
        self.presence = OnlineStatusService(self.redis, self.node_id, settings)
        self.manager = ConnectionManager(
            authenticator=Authenticator(self.verifier, settings.allowed_origins),
            channels=self.subscriber,
            mailbox=self.mailbox,
            sinks=Sinks(acks=self.broadcast_acks, presence=self.presence, reads=self.messages),
            keys=self.redis.keys,
            limits=Limits.of(settings),
            node_id=self.node_id,
            broadcasts=self.broadcast_feed,
        )

    def _observers(self) -> None:
        self.health = Health(self._supervisor.states)
        self.health.add("redis", self.redis.ping)
        self.health.add("database", self.database.ping)
        self.metrics = Metrics()
        self.ops_endpoint = ops_endpoint(self.health, self.metrics)
        if self.settings.role.holds_sockets:
            self.health.add("subscriber", self._check_subscriber)
            self.metrics.add(lambda: edge_samples(self.manager.statistics()))
        if self.settings.role.delivers:
            self.metrics.add(lambda: worker_samples(self.consumers.statistics()))

    async def _check_subscriber(self) -> None:
        if not self.subscriber.connected:
            raise RedisUnavailableError("not subscribed")

    def _routes(self, settings: Settings) -> APIRouter:
        router = APIRouter()
        router.include_router(ops_router(self.health, self.metrics))
        if settings.role.serves_api:
            security = Security(self.verifier)
            api = APIRouter(prefix=API_PREFIX)
            api.include_router(auth_router(self.auth, security))
            api.include_router(
                message_router(
                    self.messages,
                    self.confirmation,
                    security.current_principal,
                    broadcasts=self.broadcasts,
                    max_batch_messages=settings.max_batch_messages,
                )
            )
            api.include_router(broadcast_router(self.broadcasts, security.require_admin))
            router.include_router(api)
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
            await self._start_loops(stack)
            self._stack = stack.pop_all()

    async def _start_loops(self, stack: contextlib.AsyncExitStack) -> None:
        role, start = self.settings.role, self._supervisor.start
        if role.holds_sockets:
            stack.push_async_callback(self.presence.close)
        stack.push_async_callback(self._supervisor.stop)
        start("outbox-sweep", self.relay.run_sweep)
        start("outbox-fast", self.relay.run_fast)
        start("outbox-mark", self.relay.run_mark)
        start("broadcast-relay", self.broadcast_relay.run)
        if role.delivers:
            self.consumers.start(self._supervisor)
            start("evictions", self.evictions.run)
        if role.holds_sockets:
            await self._start_edge(stack)

    async def _start_edge(self, stack: contextlib.AsyncExitStack) -> None:
        await self.subscriber.start(self.manager.on_channel_message, self._on_resubscribed)
        stack.push_async_callback(self.subscriber.close)
        keys = self.redis.keys
        for channel in (keys.broadcast_channel, keys.system_channel):
            await self.subscriber.subscribe_channel(channel)
        await self.broadcast_feed.refresh()  # 先订阅，后读日志：中间到的已在目录里
        self._supervisor.start("confirm", self.confirmation.run)
        self._supervisor.start("broadcast-confirm", self.broadcast_acks.run)
        self._supervisor.start("heartbeat-sweep", self.manager.heartbeat.run)
        self._supervisor.start("reread", self._reread_loop)
        await self.presence.start(self._supervisor)

    def _on_resubscribed(self) -> None:
        """断过又订上了：这期间的发布没有收到，要重读信箱、重写在线状态。"""
        self._reread.set()
        self.presence.resync()

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
        """停止服务的前半：不再就绪，客户端以可重连的码离开，确认写完。"""
        self.health.drain()
        if self.settings.role.holds_sockets:
            await self.manager.close_all(CloseCode.SERVER_DRAINING)
            await self.confirmation.drain(self.settings.shutdown_grace_s)
            await self.broadcast_acks.drain(self.settings.shutdown_grace_s)

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
