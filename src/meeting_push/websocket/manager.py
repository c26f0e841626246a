"""ConnectionManager：本节点持有的全部用户连接。

一帧的路：``on_channel_message`` → 查表 → ``UserConnection.offer`` → 驱动。
一条连接的路：``accept`` → 认证、登记 → ``Opener``（订阅 → 占座与信箱 → welcome → 补发 → 实时）。
都在事件循环线程里，没有锁；与会议 WebSocket 毫无共享。
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from functools import partial
from typing import Final, NamedTuple, TypeVar

from ..clock import now_ms
from ..contracts import (
    Arrival,
    Arrivals,
    Broadcasts,
    ChannelRoute,
    Channels,
    Mailbox,
    PushObserver,
    Seats,
)
from ..errors import MalformedEnvelopeError, MeetingPushError
from ..logs import Log, RepeatedWarning, logger
from ..model import Principal, Revocation
from ..node.flight_recorder import OFF, FlightRecorder, Pushed
from ..node_identity import NodeIdentity
from ..protocol.codes import CloseCode, cause_of_leaving
from ..protocol.envelope import FIRST_ATTEMPT, HEAD_BYTES, BroadcastId, frame_key
from ..protocol.frames import ServerFrame, encode_any
from ..protocol.limits import Limits
from ..redis.keys import Keys
from .admission import Admission
from .event_line import EventConnection, EventDriver
from .handshake import Authenticator, Handshake
from .line import UserConnection
from .line_host import Driver
from .lines import EdgeCounters, EdgeStatistics, Fanout, Lines, Registry, farewell, send_off
from .opening import CatchUp, Opener, Sources
from .requests import ClientRequests, Sinks

SomeConnection = TypeVar("SomeConnection", bound=UserConnection)

#: 数没有确认的：每看这么多条连接让别人跑一跑。
CHUNK: Final = 500
#: 断开的一条连接至多记下这么多条没有确认的。
UNACKED_RECORDED: Final = 20


class Unanswered(NamedTuple):
    """连着的人没有确认的：几条，等得最久的多久了。"""

    messages: int
    oldest_s: float


class ConnectionManager(Lines[UserConnection]):
    """``user_connections``：user_id → 该用户在本节点的连接；列表写时复制，不要改它。

    ``close_all`` 之后不再接受新连接。
    """

    counters: EdgeCounters

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
        routes: Mapping[bytes, ChannelRoute],
        seats: Seats,
        arrivals: Arrivals,
        on_push: PushObserver | None,
        broadcasts: Broadcasts,
        recorder: FlightRecorder = OFF,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        super().__init__(authenticator, Admission(limits.arrivals), limits, EdgeCounters(), clock)
        self.limits = limits
        self.node = node
        self._presence = sinks.presence
        self._watches = sinks.watches
        self.ops = sinks.ops
        self._seats = seats
        self._channels = channels
        self._on_push = on_push
        #: 最近一次量推送延迟的那一毫秒：每毫秒至多量一条，热路径上只比较一个整数。
        self._measured_at = 0
        #: 不归连接的频道（控制命令、被关注的人）各自的去处。
        self._routes = routes
        self._registry = Registry(keys)
        self.user_connections = self._registry.by_user
        self._by_channel = self._registry.by_channel
        self._everyone = {keys.broadcast_channel.encode(), keys.system_channel.encode()}
        self._broadcast_channel = keys.broadcast_channel.encode()
        self._broadcasts = broadcasts
        self._recorder = recorder
        sources = Sources(channels, arrivals, mailbox, broadcasts, seats)
        self._opener = Opener(self, sources, limits.open_timeout_s)
        self._catch_up = CatchUp(self._opener, self._registry, self._tasks, self.give_up)
        self._fanout = Fanout(self._registry, clock)
        self._requests = ClientRequests(
            sinks, authenticator, self.counters, self._tasks, clock, self.heartbeat.schedule
        )
        self.on_command = self._requests.handle
        self._broken = RepeatedWarning("ws_session_broken")

    # ── 连接 ──────────────────────────────────────────────────────────────

    def accept(self, handshake: Handshake, driver: Driver) -> UserConnection:
        """驱动已完成升级：建立连接，轮到时认证、开始。立即返回。"""
        return self._begin(UserConnection(self, driver, handshake, _new_id()), handshake)

    def accept_stream(self, handshake: Handshake, driver: EventDriver) -> EventConnection:
        """同上，SSE 的。"""
        return self._begin(EventConnection(self, driver, handshake, _new_id()), handshake)

    def _begin(self, connection: SomeConnection, handshake: Handshake) -> SomeConnection:
        if not self._arrive(connection):
            return connection
        if self.authenticator.suspects(handshake):
            self._admit(connection, handshake)
        elif not self.admission.queue(connection, partial(self._admit, connection, handshake)):
            self.turn_away(connection, CloseCode.RATE_LIMITED)
        return connection

    def _admit(self, connection: UserConnection, handshake: Handshake) -> None:
        """轮到了。不必等谁的令牌当场就验，不另起任务。"""
        try:
            principal = self.authenticator.authenticate_at_once(handshake)
        except MeetingPushError as error:
            self._not_verified(connection, error)
        except Exception as error:  # noqa: BLE001 — 认证器出错也不能让未认证的连接留着
            self._cannot_verify(connection, error)
        else:
            if principal is None:
                later = self._admit_later(connection, handshake)
                connection.task = self._tasks.spawn(later, "ws_open")
            else:
                self._authenticated(connection, principal)
                self._opener.begin(connection)

    async def _admit_later(self, connection: UserConnection, handshake: Handshake) -> None:
        try:
            principal = await self._verified(connection, handshake, self.authenticator.authenticate)
        except TimeoutError:
            self._refuse(connection, CloseCode.NODE_UNHEALTHY)
        except Exception as error:  # noqa: BLE001 — 见上
            self._cannot_verify(connection, error)
        else:
            if principal is not None:
                self._authenticated(connection, principal)
                await self._opener.open(connection)
                connection.let_go()

    def _cannot_verify(self, connection: UserConnection, error: Exception) -> None:
        _of(connection).opt(exception=error).error("ws_auth_broken")
        self._refuse(connection, CloseCode.NODE_UNHEALTHY)

    def _authenticated(self, connection: UserConnection, principal: Principal) -> None:
        """登记。从验证到这里没有 await：期间的吊销不会漏掉这条连接。"""
        connection.identified(principal)
        self.heartbeat.hasten(connection, principal.expires_at)
        self._registry.add(connection)

    async def connect_user(self, user_id: int, websocket: UserConnection) -> None:
        """登记一条已认证的连接并把它开始起来；返回时已是实时，或已关闭。

        任何失败都变成关闭码（设备满了 4006，依赖久不可用 4007），不抛出。可取消：断开时会被取消。
        """
        if websocket.user_id != user_id:
            raise ValueError("the connection belongs to another user")
        self._registry.add(websocket)
        await self._opener.open(websocket)

    # ── OpeningHost ───────────────────────────────────────────────────────

    def on_no_seat(self, connection: UserConnection) -> None:
        self.turn_away(connection, CloseCode.TOO_MANY_CONNECTIONS)

    def on_welcomed(self, connection: UserConnection) -> None:
        self._announce(connection)
        connection.receive_early()

    def on_open_timeout(self, connection: UserConnection) -> None:
        _of(connection).warning("ws_open_timeout")
        connection.close(CloseCode.NODE_UNHEALTHY)

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        return self._tasks.spawn(work, "ws_open")

    def _announce(self, connection: UserConnection) -> None:
        if connection.closing_since is None:
            connection.announced = True
            self._presence.connection_opened(connection.user_id, connection.info())

    def give_up(self, connection: UserConnection, error: Exception) -> None:
        if connection.closing_since is not None:
            return
        if isinstance(error, MeetingPushError):  # 他的键被写坏了（B1）：只是他，不必回溯
            self._broken.say(
                user_id=connection.user_id,
                connection_id=connection.connection_id,
                code=error.code,
                reason=error.message,
            )
        else:
            _of(connection).opt(exception=error).error("ws_session_broken")
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
        if self._on_push is not None:
            if now != self._measured_at:
                self._measured_at = now
                self._on_push(payload, key, now)
            if key is not None and payload.find(FIRST_ATTEMPT, 0, HEAD_BYTES) > 0:
                self.counters.first_pushes += len(connections)
        for connection in connections:
            connection.offer(payload, key, now)

    def _spread(self, channel: bytes, payload: bytes) -> None:
        broadcast_id: BroadcastId | Arrival | None = None
        if channel == self._broadcast_channel:
            broadcast_id = self._broadcasts.arrived(payload)
        if broadcast_id is not Arrival.MISSED:
            self._fanout.spread(payload, broadcast_id)

    def broadcast_to_user(self, user_id: int, message: Mapping[str, object] | ServerFrame) -> int:
        """把一帧推给该用户在本节点的所有设备，返回设备数；瞬时的，不进信箱。

        :raises InvalidInputError: ``message`` 没有 ``type`` 或不能编码
        """
        frame = encode_any(message)
        now = self.clock()
        connections = self.user_connections.get(user_id, ())
        for connection in connections:
            connection.offer(frame, None, now)
        return len(connections)

    def broadcast_all(self, message: Mapping[str, object] | ServerFrame) -> int:
        """同上，给本节点的所有连接；分段写出。"""
        self._fanout.spread(encode_any(message))
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

    def on_hole(self, connection: UserConnection) -> None:
        self._catch_up.start(connection)

    def on_unacked(self, connection: UserConnection) -> None:
        """断了而没有确认的：记下推过，此后只有记录仪知道。"""
        user_id, connection_id = connection.user_id, connection.connection_id
        newest = connection.session.unacked.newest(UNACKED_RECORDED)
        self._recorder.unacked.extend((at, name, user_id, connection_id) for name, at in newest)

    def pushed(self, message_id: str, user_ids: Iterable[int]) -> Iterator[Pushed]:
        """推给了谁的哪条连接、还没有确认的；账本来就在会话里，热路径不为此多做什么。"""
        for user_id in user_ids:
            for connection in self.user_connections.get(user_id, ()):
                at = connection.session.unacked.pushed_at(message_id)
                if at is not None:
                    yield Pushed(at, message_id, user_id, connection.connection_id)

    def _depart(self, connection: UserConnection) -> None:
        super()._depart(connection)
        self.admission.unqueue(connection)
        self._opener.deadlines.stop(connection)
        if not self._registry.remove(connection):
            return
        self._watches.forget(connection)
        self.ops.forget(connection)
        self._seats.release(connection.user_id, connection.connection_id)
        if connection.user_id not in self.user_connections:
            self._channels.unsubscribe(connection.user_id)
        if connection.announced:
            left = cause_of_leaving(connection.ending, connection.code)
            self._presence.connection_closed(connection.user_id, connection.connection_id, left)

    def on_beating(self, connection: UserConnection) -> None:
        """开始了的一条流：它的注释从此由清扫按时写。"""
        self.streams.add(connection)
        self.heartbeat.schedule(connection)

    # ── 结束与观察 ────────────────────────────────────────────────────────

    async def evacuate(self, code: CloseCode, spread_s: float = 0) -> None:
        """以 ``code`` 请走此刻的所有连接，随机地分散在 ``spread_s`` 秒里；新来的不受影响。"""
        await send_off(self._sockets, code, spread_s, farewell(code, spread_s))

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

    async def unacked(self) -> Unanswered:
        """推了还没有确认的；几万条连接也不占住循环。"""
        count, oldest = 0, None
        for number, connection in enumerate(self._registry):
            if number % CHUNK == 0:
                await asyncio.sleep(0)
            waiting = connection.session.unacked
            at = waiting.oldest()
            if at is not None:
                count += len(waiting)
                oldest = at if oldest is None else min(oldest, at)
        age_ms = 0 if oldest is None else max(0, self.clock() - oldest)
        return Unanswered(count, age_ms / 1000)

    def statistics(self) -> EdgeStatistics:
        return EdgeStatistics(
            **self.counters.snapshot(),
            connections=len(self._registry),
            streams=len(self.streams),
            relayed=sum(each.principal is not None for each in self.relayed),
            users=len(self.user_connections),
            sockets=len(self._sockets),
            waiting=self.admission.waiting,
        )


def _new_id() -> str:
    return os.urandom(12).hex()


def _of(connection: UserConnection) -> Log:
    """说的是这条连接。"""
    return logger.bind(user_id=connection.user_id, connection_id=connection.connection_id)
