"""边缘：握着用户的连接，推送，收下确认；谁在线、几台设备、听不听得见。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from loguru import logger

from ..contracts import ChannelRoute
from ..errors import MeetingPushError, RedisUnavailableError
from ..limits.forwarded import TrustedProxies
from ..monitoring.latency import AckLatency, PushLatency
from ..node.control_channel import Kick
from ..node_identity import NodeIdentity
from ..presence.online_status_service import OnlineStatusService
from ..presence.seats import DeviceSeats, Replace
from ..presence.watch import PresenceWatch
from ..protocol.codes import CloseCode
from ..repeated_warning import RepeatedWarning
from ..settings import Settings
from ..supervision import Supervisor
from ..websocket.authenticator import Authenticator
from ..websocket.departure import window_s
from ..websocket.handshake_limits import HandshakeLimits
from ..websocket.hearing import NodeHearing
from ..websocket.limits import limits_of
from ..websocket.manager import ConnectionManager
from ..websocket.patience import patiently
from ..websocket.requests import Sinks
from .access import Access
from .broadcast_path import BroadcastPath
from .bus import Bus
from .message_path import MessagePath
from .outcome_path import OutcomePath

#: 重订阅之后 Redis 又不在：过这么久再试着重读。
REREAD_RETRY_S: Final = 0.5
#: 等对账者换代次至多这么久：SQL 也不在，就先读再说，代价是多一帧 ``resync``。
SETTLE_PATIENCE_S: Final = 15.0


class Edge:
    def __init__(
        self,
        settings: Settings,
        node: NodeIdentity,
        *,
        bus: Bus,
        access: Access,
        messages: MessagePath,
        outcomes: OutcomePath,
        broadcasts: BroadcastPath,
        settled: Callable[[], Awaitable[bool]],
    ) -> None:
        """``settled``：见 ``Reconciler.settled``。"""
        self._settled = settled
        self._settings = settings
        self._also_replaced: list[Callable[[Collection[str]], None]] = []
        self._bus = bus
        self._confirmation = messages.confirmation
        self._retries = outcomes.retries
        self._broadcasts = broadcasts
        self._log_not_read = RepeatedWarning("broadcast_log_not_read")
        keys = bus.redis.keys
        routes: dict[bytes, ChannelRoute] = {}
        self.presence = OnlineStatusService(
            bus.redis, node, settings, aside=bus.asides.of("presence"), clock=bus.clock
        )
        self.watch = PresenceWatch(bus.subscriber, routes, self.presence, keys, settings)
        self.seats = DeviceSeats(bus.redis, node, settings, aside=bus.asides.of("seats"))
        self.push_latency, self.ack_latency = PushLatency(), AckLatency(broadcasts.acks)
        self.manager = ConnectionManager(
            authenticator=Authenticator(
                access.credentials,
                settings.allowed_origins,
                sources=settings.ws_token_sources,
                limits=HandshakeLimits(settings),
                proxies=TrustedProxies(settings.trusted_proxies),
            ),
            channels=bus.subscriber,
            mailbox=messages.mailbox,
            sinks=Sinks(
                acks=self.ack_latency,
                presence=self.presence,
                reads=messages.messages,
                watches=self.watch,
                retries=outcomes.retries,
            ),
            keys=keys,
            limits=limits_of(settings),
            node=node,
            routes=routes,
            seats=self.seats,
            on_push=self.push_latency,
            broadcasts=broadcasts.feed,
            clock=bus.clock,
        )
        self.hearing = NodeHearing(
            bus.redis, bus.subscriber, self.manager, settings, bus.reread.set
        )
        self._routes = routes
        routes[keys.system_channel.encode()] = bus.control.take
        bus.control.on(Kick, self._kick)
        bus.control.on(Replace, self._replace)
        access.revocations.listen(self.manager.disconnect_revoked)

    # ── 别处说该走的 ──────────────────────────────────────────────────────────

    def _kick(self, command: Kick) -> None:
        self._disconnect(command.user_id, (command.connection_id,), CloseCode.KICKED)

    def _replace(self, command: Replace) -> None:
        self._disconnect(command.user_id, command.connection_ids, CloseCode.REPLACED)
        for replaced in self._also_replaced:
            replaced(command.connection_ids)

    def also_replaced(self, replaced: Callable[[Collection[str]], None]) -> None:
        """座位也分给了别的连接（会议）：被顶掉的由 ``replaced`` 关闭。"""
        self._also_replaced.append(replaced)

    def _disconnect(self, user_id: int, connection_ids: Collection[str], code: CloseCode) -> None:
        for connection in self.manager.get_user_connections(user_id):
            if connection.connection_id in connection_ids:
                self.manager.disconnect_user(user_id, connection, code)

    # ── 生 ──────────────────────────────────────────────────────────────────

    async def start(self, supervisor: Supervisor, stack: contextlib.AsyncExitStack) -> None:
        """开始听，再让各循环跑起来；确认与重试的写入也在这里：它们从连接来。"""
        await self._listen(stack)
        supervisor.start("confirm", self._confirmation.run)
        supervisor.start("broadcast-confirm", self._broadcasts.acks.run)
        supervisor.start("retry", self._retries.run)
        supervisor.start("heartbeat-sweep", self.manager.heartbeat.run)
        supervisor.start("seats", self.seats.run)
        supervisor.start("seat-renewal", self.seats.run_renewal)
        supervisor.start("canary", self.hearing.canary.run)
        supervisor.start("evacuation", self.hearing.run)
        supervisor.start("reread", self._reread_loop)
        supervisor.start("presence-watch", self.watch.run)
        await self.presence.start(supervisor)

    async def _listen(self, stack: contextlib.AsyncExitStack) -> None:
        subscriber, keys = self._bus.subscriber, self._bus.redis.keys
        await subscriber.start(self.manager.on_channel_message, self._on_resubscribed)
        stack.push_async_callback(subscriber.close)
        canary = self.hearing.canary
        self._routes[canary.channel.encode()] = canary.hear
        own = (keys.broadcast_channel, keys.system_channel, canary.channel)
        try:
            async with asyncio.timeout(self._settings.redis_timeout_s):
                for channel in own:
                    await subscriber.subscribe_channel(channel)
        except TimeoutError:  # 没有期限的等待会藏起原因（LESSONS 26）
            why = "the subscriptions were not confirmed in time"
            raise RedisUnavailableError(why, cause=subscriber.cause) from None
        # 先订阅，后读日志：中间到的已在目录里
        await self._broadcasts.feed.refresh()

    def _on_resubscribed(self) -> None:
        """断过又订上了：这期间的发布没有收到，要重读信箱、重写在线状态。"""
        self._bus.reread.set()
        self.presence.resync()
        self.seats.resync()
        self.watch.resync()
        self.hearing.canary.resubscribed()

    async def _reread_loop(self) -> None:
        while True:
            await self._bus.reread.wait()
            self._bus.reread.clear()
            try:
                await self._wait_settled()
                if await self._refresh_broadcasts():
                    await self.manager.reread_all()
            except Exception:
                self._bus.reread.set()  # 监督者会重启这个循环：没轮到的连接不能就此不补
                raise

    async def _wait_settled(self) -> None:
        """Redis 丢了数据，等换了代次再读：每台设备一帧 ``resync``，不是先后两帧（E12）。"""
        try:
            async with asyncio.timeout(SETTLE_PATIENCE_S):
                while not await patiently(self._settled):  # noqa: ASYNC110 — 在 Redis 里，没有事件
                    await asyncio.sleep(REREAD_RETRY_S)
        except (TimeoutError, MeetingPushError) as error:
            logger.bind(error=type(error).__name__).warning("reread_before_generation")

    async def _refresh_broadcasts(self) -> bool:
        """False：Redis 又不在了，稍后再来。"""
        try:
            await self._broadcasts.feed.refresh()
        except MeetingPushError as error:
            self._log_not_read.say(code=error.code, cause=error.cause)
            if error.temporary:
                loop = asyncio.get_running_loop()
                loop.call_later(REREAD_RETRY_S, self._bus.reread.set)
                return False
        return True

    # ── 死（次序见 ``MeetingPush.drain``） ──────────────────────────────────────

    def refuse(self) -> None:
        """新来的一升级就请走；听力好坏也不再开门关门。"""
        self.hearing.leave()
        self.manager.refuse(CloseCode.SERVER_DRAINING)

    async def send_off(self) -> None:
        """送走全部客人，让出座位。"""
        sockets = self.manager.statistics().sockets
        spread_s = window_s(sockets, self._settings.drain_window_s)
        await self.manager.close_all(CloseCode.SERVER_DRAINING, spread_s)
        await self.seats.drain()

    async def finish_acks(self) -> None:
        """已收下的确认写完。"""
        grace_s = self._settings.shutdown_grace_s
        await asyncio.gather(
            self._confirmation.drain(grace_s), self._broadcasts.acks.drain(grace_s)
        )
