"""ConnectionManager：本节点持有的全部用户连接。

一帧的路：``on_channel_message`` → 查表 → ``UserConnection.offer`` → 驱动。
一条连接的路：``accept`` → 认证 → ``connect_user``（登记 → 订阅 → 读信箱 → welcome → 补发 → 实时）。
都在事件循环线程里，没有锁；与会议 WebSocket 毫无共享。
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping

import msgspec
from loguru import logger

from ..clock import now_ms
from ..contracts import (
    BROADCAST_MISSED,
    Broadcasts,
    ChannelRoute,
    Channels,
    Mailbox,
    PushObserver,
    Seats,
)
from ..errors import InvalidInputError, MalformedEnvelopeError, MeetingPushError
from ..limits.rate import rate_key
from ..logs import RepeatedWarning
from ..model import Revocation
from ..node_identity import NodeIdentity
from ..protocol.codes import CloseCode
from ..protocol.commands import Command
from ..protocol.envelope import frame_key
from ..protocol.frames import ServerFrame, encode
from ..protocol.limits import Limits
from ..redis.keys import Keys
from ..supervision import Tasks, patiently
from .admission import Admission
from .authenticator import Authenticator, close_code_for, who_failed
from .connection import Driver, EdgeCounters, EdgeStatistics, UserConnection
from .handshake import Handshake
from .heartbeat import HeartbeatSweep
from .opening import CatchUp, Opener
from .registry import Fanout, Registry, send_off
from .requests import ClientRequests, Sinks


class ConnectionManager:
    """``user_connections``：user_id → 该用户在本节点的连接；列表写时复制，不要改它。

    ``heartbeat.run`` 须由监督者一直运行；``close_all`` 之后不再接受新连接。
    """

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        channels: Channels,
        mailbox: Mailbox,
        sinks: Sinks,
        keys: Keys,
        limits: Limits,
        node: NodeIdentity,
        routes: Mapping[bytes, ChannelRoute] | None = None,
        seats: Seats | None = None,
        on_push: PushObserver | None = None,
        broadcasts: Broadcasts | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self.authenticator = authenticator
        self.limits = limits
        self.node = node
        self.clock = clock
        self.counters = EdgeCounters()
        self._tasks = Tasks()
        self._presence = sinks.presence
        self._watches = sinks.watches
        self._seats = seats
        #: 与会议的连接共用：两扇门合在一起算。
        self.admission = Admission(limits.arrivals)
        self._on_push = on_push
        #: 最近一次量推送延迟的那一毫秒：每毫秒至多量一条，热路径上只比较一个整数。
        self._measured_at = 0
        #: 不归连接的频道（控制命令、被关注的人）各自的去处。
        self._routes: Mapping[bytes, ChannelRoute] = routes if routes is not None else {}
        self._registry = Registry(keys)
        self.user_connections = self._registry.by_user
        self._by_channel = self._registry.by_channel
        self._everyone = {keys.broadcast_channel.encode(), keys.system_channel.encode()}
        self._broadcast_channel = keys.broadcast_channel.encode()
        self._broadcasts = broadcasts
        self._opener = Opener(channels, mailbox, self.counters, clock, broadcasts)
        self._catch_up = CatchUp(self._opener, self._registry, self._tasks, self._give_up)
        self._fanout = Fanout(self._registry, clock)
        self.heartbeat = HeartbeatSweep(limits, clock, self.on_command)
        self._requests = ClientRequests(
            sinks, authenticator, self.counters, self._tasks, clock, self.heartbeat.schedule
        )
        #: 传输还在的全部连接，包括尚未认证的与正在关闭的。
        self._sockets: set[UserConnection] = set()
        self._broken = RepeatedWarning("ws_session_broken")
        self._empty = asyncio.Event()
        #: 新来的一律以它关闭；None = 照常。
        self._refusing_with: CloseCode | None = None

    # ── 连接 ──────────────────────────────────────────────────────────────

    def origin_allowed(self, handshake: Handshake) -> bool:
        """驱动在升级之前问；False 则回 HTTP 403。"""
        allowed = self.authenticator.origin_allowed(handshake)
        if not allowed:
            self.counters.origins_refused += 1
        return allowed

    def accept(self, handshake: Handshake, driver: Driver) -> UserConnection:
        """驱动已完成升级：建立连接并在后台认证、开始。立即返回。"""
        connection = UserConnection(self, driver, handshake, os.urandom(12).hex())
        self._sockets.add(connection)
        self.counters.connections_opened += 1
        self.heartbeat.schedule(connection)
        room = self.admission.enter(connection.ip_address)
        if self._refusing_with is not None:
            connection.close(self._refusing_with)
        elif not room:
            self._turn_away(connection, CloseCode.TOO_MANY_CONNECTIONS)
        else:
            connection.task = self._tasks.spawn(self._admit(connection, handshake), "ws_open")
        return connection

    async def _admit(self, connection: UserConnection, handshake: Handshake) -> None:
        if not self.authenticator.suspects(handshake) and not await self.admission.turn():
            self._turn_away(connection, CloseCode.RATE_LIMITED)
            return
        try:
            async with asyncio.timeout(self.limits.handshake_timeout_s):
                principal = await self.authenticator.authenticate(handshake)
        except MeetingPushError as error:
            self.counters.auth_failures += 1
            delay_s = self.admission.failure_delay_s(who_failed(error, connection.ip_address))
            connection.close(close_code_for(error), delay_s)
        except TimeoutError:
            connection.close(CloseCode.NODE_UNHEALTHY)
        except Exception as error:  # noqa: BLE001 — 认证器出错也不能让未认证的连接留着
            logger.bind(user_id=connection.user_id).opt(exception=error).error("ws_auth_broken")
            connection.close(CloseCode.NODE_UNHEALTHY)
        else:
            # 从验证到登记没有 await：期间的吊销不会漏掉这条连接
            connection.principal = principal
            connection.session.authenticated(principal)
            self.heartbeat.schedule(connection)
            await self.connect_user(connection.user_id, connection)
            connection.let_go()

    async def connect_user(self, user_id: int, websocket: UserConnection) -> None:
        """登记一条已认证的连接并把它开始起来；返回时已是实时，或已关闭。

        任何失败都变成关闭码（设备满了 4006，依赖久不可用 4007），不抛出。可取消：断开时会被取消。
        """
        if websocket.user_id != user_id:
            raise ValueError("the connection belongs to another user")
        self._registry.add(websocket)
        try:
            if not await self._seated(websocket):
                self._turn_away(websocket, CloseCode.TOO_MANY_CONNECTIONS)
                return
            view = await self._opener.first_view(websocket, self.limits.open_timeout_s)
            websocket.welcome(view)
            self._announce(websocket)
            websocket.receive_early()
            await self._opener.flush(websocket, view)
        except TimeoutError:
            logger.bind(user_id=user_id).warning("ws_open_timeout")
            websocket.close(CloseCode.NODE_UNHEALTHY)
        except Exception as error:  # noqa: BLE001 — 任何错都不能留下一条半开的连接
            self._give_up(websocket, error)

    def _turn_away(self, connection: UserConnection, code: CloseCode) -> None:
        """在门口拒绝；一再来的，晚些才说。"""
        known = connection.principal is not None
        key = connection.user_id if known else rate_key(connection.ip_address)
        connection.close(code, self.admission.closing_delay_s(key))

    async def _seated(self, connection: UserConnection) -> bool:
        """占一个座位；先占后订阅，被拒绝的不再花别的。"""
        if (seats := self._seats) is None:
            return True
        user_id, connection_id = connection.user_id, connection.connection_id
        device_id = connection.device.device_id
        async with asyncio.timeout(self.limits.open_timeout_s):
            return await patiently(lambda: seats.claim(user_id, connection_id, device_id))

    def _announce(self, connection: UserConnection) -> None:
        if connection.closing_since is None:
            connection.announced = True
            self._presence.connection_opened(connection.user_id, connection.info())

    def _give_up(self, connection: UserConnection, error: Exception) -> None:
        if connection.closing_since is not None:
            return
        if isinstance(error, MeetingPushError):  # 他的键被写坏了（B1）：只是他，不必回溯
            self._broken.say(user_id=connection.user_id, code=error.code, reason=error.message)
        else:
            logger.bind(user_id=connection.user_id).opt(exception=error).error("ws_session_broken")
        connection.close(CloseCode.NODE_UNHEALTHY)

    def disconnect_user(
        self, user_id: int, websocket: UserConnection, code: CloseCode = CloseCode.NORMAL
    ) -> None:
        """移出登记并关闭；同步、幂等。"""
        if websocket.user_id != user_id:
            raise ValueError("the connection belongs to another user")
        websocket.close(code)

    def disconnect_revoked(self, revocation: Revocation) -> None:
        """关闭这次吊销涉及的、在本节点的连接（4502）；同步。"""
        for connection in self.get_user_connections(revocation.user_id):
            if connection.principal is not None and revocation.covers(connection.principal):
                connection.close(CloseCode.REVOKED)

    def get_user_connections(self, user_id: int) -> list[UserConnection]:
        return list(self.user_connections.get(user_id, ()))

    # ── 推 ────────────────────────────────────────────────────────────────

    def on_channel_message(self, channel: bytes, payload: bytes) -> None:
        """Redis 频道上的一条消息；热路径，同步，不抛出。"""
        connections = self._by_channel.get(channel)
        if connections is None and (route := self._routes.get(channel)) and route(payload):
            return
        if connections is None and channel not in self._everyone:
            self.counters.drops["no_connection"] += 1  # 退订在途
            return
        try:
            key = frame_key(payload)
        except MalformedEnvelopeError:
            self.counters.drops["malformed_envelope"] += 1
            return
        if connections is None:
            self._spread(channel, payload)
            return
        now = self.clock()
        if now != self._measured_at and self._on_push is not None:
            self._measured_at = now
            self._on_push(payload, key, now)
        for connection in connections:
            connection.offer(payload, key, now)

    def _spread(self, channel: bytes, payload: bytes) -> None:
        broadcast_id = None
        if self._broadcasts is not None and channel == self._broadcast_channel:
            broadcast_id = self._broadcasts.arrived(payload)
        if broadcast_id != BROADCAST_MISSED:
            self._fanout.spread(payload, broadcast_id)

    def broadcast_to_user(self, user_id: int, message: Mapping[str, object] | ServerFrame) -> int:
        """把一帧推给该用户在本节点的所有设备，返回设备数；瞬时的，不进信箱。

        :raises InvalidInputError: ``message`` 没有 ``type`` 或不能编码
        """
        frame = _encode(message)
        now = self.clock()
        connections = self.user_connections.get(user_id, ())
        for connection in connections:
            connection.offer(frame, None, now)
        return len(connections)

    def broadcast_all(self, message: Mapping[str, object] | ServerFrame) -> int:
        """同上，给本节点的所有连接；分段写出。"""
        self._fanout.spread(_encode(message))
        return len(self._registry)

    # ── 重读 ──────────────────────────────────────────────────────────────

    async def reread_all(self) -> None:
        """频道断过又订上之后：给每条连接补上期间漏掉的（CON-3、CON-4）。限速。

        须紧接着广播目录的 ``refresh``，中间不让出：否则新来的广播会越过漏掉的。
        """
        await self._catch_up.everybody()

    async def reread(self, user_id: int) -> None:
        """同上，一个用户。"""
        for connection in self.get_user_connections(user_id):
            await self._catch_up.one(connection)

    # ── ConnectionHost ────────────────────────────────────────────────────

    def on_command(self, connection: UserConnection, command: Command) -> None:
        self._requests.handle(connection, command)

    def on_hole(self, connection: UserConnection) -> None:
        self._catch_up.start(connection)

    def on_blocked(self, connection: UserConnection) -> None:
        self.heartbeat.attend(connection)

    def on_closing(self, connection: UserConnection) -> None:
        self._depart(connection)
        if connection in self._sockets:
            self.heartbeat.attend(connection)

    def on_lost(self, connection: UserConnection) -> None:
        self._depart(connection)
        self.heartbeat.forget(connection)
        if connection in self._sockets:
            self._sockets.discard(connection)
            self.admission.leave(connection.ip_address)
        if not self._sockets:
            self._empty.set()

    def _depart(self, connection: UserConnection) -> None:
        task, connection.task = connection.task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        if not self._registry.remove(connection):
            return
        if self._watches is not None:
            self._watches.forget(connection)
        if self._seats is not None:
            self._seats.release(connection.user_id, connection.connection_id)
        if connection.user_id not in self.user_connections:
            self._opener.subscriptions.release(connection.user_id)
        if connection.announced:
            self._presence.connection_closed(connection.user_id, connection.connection_id)

    # ── 结束与观察 ────────────────────────────────────────────────────────

    def refuse(self, code: CloseCode | None) -> None:
        """此后的新连接一升级就以 ``code`` 关闭；None = 照常接受。"""
        self._refusing_with = code

    async def evacuate(self, code: CloseCode, spread_s: float = 0) -> None:
        """以 ``code`` 请走此刻的所有连接，随机地分散在 ``spread_s`` 秒里；新来的不受影响。"""
        await send_off(self._sockets, code, spread_s)

    async def close_all(
        self, code: CloseCode = CloseCode.SERVER_DRAINING, spread_s: float = 0
    ) -> None:
        """不再接受，并请走所有连接；``code``、``spread_s`` 同 ``evacuate``。

        返回时所有 socket 都已断开，赖着不走的已掐断。
        """
        self.refuse(code)
        self.admission.stop_waiting()
        await self.evacuate(code, spread_s)
        for connection in list(self._sockets):
            connection.part(code)
        await self._wait_empty()
        await self._tasks.close()

    async def _wait_empty(self) -> None:
        if not self._sockets:
            return
        self._empty.clear()
        try:
            await asyncio.wait_for(self._empty.wait(), self.limits.close_linger_ms / 1000)
        except TimeoutError:
            for connection in list(self._sockets):
                connection.abort()

    def statistics(self) -> EdgeStatistics:
        counters = self.counters
        return EdgeStatistics(
            connections=len(self._registry),
            users=len(self.user_connections),
            sockets=len(self._sockets),
            waiting=self.admission.waiting,
            connections_opened=counters.connections_opened,
            frames_pushed=counters.frames_pushed,
            bytes_pushed=counters.bytes_pushed,
            acks=counters.acks,
            heartbeats=counters.heartbeats,
            bad_frames=counters.bad_frames,
            auth_failures=counters.auth_failures,
            origins_refused=counters.origins_refused,
            flushed_messages=counters.flushed_messages,
            rereads=counters.rereads,
            drops=dict(counters.drops),
            closes=dict(counters.closes),
        )


def _encode(message: Mapping[str, object] | ServerFrame) -> bytes:
    if isinstance(message, ServerFrame):
        return encode(message)
    if not isinstance(message.get("type"), str):
        raise InvalidInputError("a frame needs a type")
    try:
        return msgspec.json.encode(message)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidInputError(f"the frame can not be encoded: {error}") from None
