"""MeetingHub：本节点持有的全部会议连接；与 ``ConnectionManager`` 毫无共享（ISO-1）。

一条连接的路：``accept`` → 认证 → 许可 → 房间（先订阅，后读起点）→ 到场 → welcome → 补发 → 实时。
一段转录的路：``Requests`` → ``Scribes``（先存，后发布）→ 频道 → ``Room``（排序）→ 各连接。
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Collection

from loguru import logger

from ..clock import now_ms
from ..contracts import MeetingDesk, Seats
from ..errors import UnavailableError
from ..model import MeetingView, Revocation
from ..protocol.codes import CloseCode
from ..protocol.commands import Command
from ..protocol.frames import encode
from ..redis.meeting_bus import MeetingBus, Online
from ..supervision import Tasks, patiently
from ..websocket.admission import Admission
from ..websocket.authenticator import Authenticator
from ..websocket.connection import Driver
from ..websocket.handshake import Handshake
from ..websocket.heartbeat import HeartbeatSweep
from .connection import MeetingConnection, MeetingCounters, MeetingStatistics
from .entrance import Entrance, space_for
from .frames import Attendee, MeetingWelcome
from .keeper import Keeper
from .requests import Requests, Scribes
from .room import History, Room, Rooms
from .session import MeetingLimits


class MeetingHub:
    """``heartbeat.run`` 与 ``keeper.run`` 须由监督者一直运行；``close_all`` 之后不再接受。"""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        desk: MeetingDesk,
        bus: MeetingBus,
        limits: MeetingLimits,
        admission: Admission,
        seats: Seats | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.counters = MeetingCounters()
        self._authenticator = authenticator
        self.proxies = authenticator.proxies
        self._entrance = Entrance(authenticator, desk, admission, seats, limits.line, self.counters)
        self._bus = bus
        self._tasks = Tasks()
        self._rooms = Rooms(desk, bus, self._tasks, self.counters, clock)
        self._scribes = Scribes(desk, bus, self.counters, self._on_unpublished)
        self._history = History(desk, clock)
        self.heartbeat: HeartbeatSweep[MeetingConnection] = HeartbeatSweep(
            limits.line, clock, self.on_command
        )
        self._requests = Requests(
            self._scribes,
            bus,
            authenticator,
            self.counters,
            self._tasks,
            self.heartbeat.schedule,
            clock,
        )
        self.keeper = Keeper(self._rooms, desk, bus, limits.refresh_s, clock)
        self.on_channel_message = self._rooms.on_channel_message
        #: 传输还在的全部连接，包括认证中的与正在关闭的。
        self._sockets: set[MeetingConnection] = set()
        self._empty = asyncio.Event()
        self._closing_with: CloseCode | None = None

    # ── 连接 ──────────────────────────────────────────────────────────────

    def origin_allowed(self, handshake: Handshake) -> bool:
        """升级之前问；False 则回 HTTP 403。"""
        allowed = self._authenticator.origin_allowed(handshake)
        if not allowed:
            self.counters.origins_refused += 1
        return allowed

    async def keep_waiting(self, handshake: Handshake) -> None:
        """升级之前的拒绝：等到该说了为止。"""
        await self._entrance.keep_waiting(handshake.ip_address)

    def accept(
        self, handshake: Handshake, meeting_id: str, last_seq: int, driver: Driver
    ) -> MeetingConnection:
        """驱动已完成升级：建立连接并在后台认证、开始。立即返回。

        ``last_seq``：到这一段为止它都有了；0 要全部。
        """
        connection = MeetingConnection(
            self, driver, meeting_id, handshake.ip_address, os.urandom(12).hex()
        )
        connection.session.seq = last_seq
        self._sockets.add(connection)
        self.counters.connections_opened += 1
        self.heartbeat.schedule(connection)
        room = self._entrance.enter(connection)
        if self._closing_with is not None:
            connection.close(self._closing_with)
        elif not room:
            self._entrance.turn_away(connection, CloseCode.TOO_MANY_CONNECTIONS)
        else:
            connection.task = self._tasks.spawn(self._admit(connection, handshake), "meeting_join")
        return connection

    async def _admit(self, connection: MeetingConnection, handshake: Handshake) -> None:
        try:
            view = await self._permit(connection, handshake)
            if view is not None:
                async with asyncio.timeout(self.limits.line.open_timeout_s):
                    room = await self._join(connection, view)
                if connection.welcomed:
                    await self._history.replay(connection, room)
        except TimeoutError:
            logger.bind(meeting_id=connection.meeting_id).warning("meeting_join_timeout")
            connection.close(CloseCode.NODE_UNHEALTHY)
        except Exception as error:  # noqa: BLE001 — 任何错都不能留下一条半开的连接
            logger.bind(meeting_id=connection.meeting_id).opt(exception=error).error(
                "meeting_join_broken"
            )
            connection.close(CloseCode.NODE_UNHEALTHY)

    async def _permit(
        self, connection: MeetingConnection, handshake: Handshake
    ) -> MeetingView | None:
        """认证与许可；不许则关闭并返回 None。"""
        principal = await self._entrance.authenticate(connection, handshake)
        if principal is None:
            return None
        # 从验证到登记没有 await：期间的吊销不会漏掉这条连接
        connection.session.principal = principal
        self.heartbeat.schedule(connection)
        return await self._entrance.permit(connection, handshake)

    async def _join(self, connection: MeetingConnection, view: MeetingView) -> Room:
        """房间（先订阅，后读起点）→ 到场 → welcome；满了则关闭。"""
        space = space_for(connection.principal, view, self.limits.max_connections)
        room = await self._rooms.enter(connection)
        connection.entered = True  # 先记下：途中断开也要销号
        online = await patiently(lambda: self._bus.enter(room.meeting_id, connection.member, space))
        if online is None:
            connection.entered = False
            self._entrance.turn_away(connection, CloseCode.TOO_MANY_CONNECTIONS)
            return room
        room.online.update(online)
        # 许可之后房间也许又走了几步；房间也可能还没收到记录里已有的
        newest = max(view.meeting.seq, room.seq)
        if connection.session.seq > newest:
            connection.session.seq = 0  # 它声称有我们没有的：全部重来，welcome 的 seq 会说明
        connection.welcome(self._welcome(connection, view, online, newest), self.clock())
        return room

    def _welcome(
        self, connection: MeetingConnection, view: MeetingView, online: Online, seq: int
    ) -> bytes:
        line, principal = self.limits.line, connection.principal
        names = {p.user_id: p.name for p in view.participants}
        names |= {user_id: name for user_id, name in online.items() if user_id not in names}
        return encode(
            MeetingWelcome(
                connection_id=connection.connection_id,
                meeting_id=connection.meeting_id,
                title=view.meeting.title,
                user_id=principal.user_id,
                seq=seq,
                participants=[Attendee(u, name, u in online) for u, name in names.items()],
                ended_at=view.meeting.ended_at,
                heartbeat_interval_s=line.heartbeat_interval_s,
                heartbeat_timeout_s=line.heartbeat_timeout_s,
                max_frame_bytes=line.max_frame_bytes,
                max_text_chars=self.limits.max_text_chars,
                token_expires_at=principal.expires_at,
                server_time=self.clock(),
            )
        )

    # ── MeetingHost ───────────────────────────────────────────────────────

    def on_command(self, connection: MeetingConnection, command: Command) -> None:
        self._requests.handle(connection, command)

    def on_blocked(self, connection: MeetingConnection) -> None:
        self.heartbeat.attend(connection)

    def on_closing(self, connection: MeetingConnection) -> None:
        self._depart(connection)
        if connection in self._sockets:
            self.heartbeat.attend(connection)

    def on_lost(self, connection: MeetingConnection) -> None:
        self._depart(connection)
        self.heartbeat.forget(connection)
        if connection in self._sockets:
            self._sockets.discard(connection)
            self._entrance.leave(connection)
        if not self._sockets:
            self._empty.set()

    def _depart(self, connection: MeetingConnection) -> None:
        task, connection.task = connection.task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        self._rooms.leave(connection)
        self._entrance.stand_up(connection)
        if connection.entered:
            connection.entered = False
            self._tasks.spawn(self._sign_out(connection.meeting_id, connection.member), "leave")

    async def _sign_out(self, meeting_id: str, member: str) -> None:
        """过了宽限才销号：刷新页面、换个节点重连，别人看不见抖动（LESSONS 8）。"""
        await asyncio.sleep(self.limits.leave_grace_s)
        try:
            await self._bus.leave(meeting_id, member)
        except UnavailableError as error:
            # 到期会清掉它，只是晚些
            logger.bind(code=error.code, cause=error.cause, meeting_id=meeting_id).debug(
                "meeting_leave_deferred"
            )

    def _on_unpublished(self, meeting_id: str, seq: int) -> None:
        room = self._rooms.find(meeting_id)
        if room is not None:
            room.note(seq)

    def replaced(self, connection_ids: Collection[str]) -> None:
        """座位被顶掉的（4505）。"""
        for connection in list(self._sockets):
            if connection.connection_id in connection_ids:
                connection.close(CloseCode.REPLACED)

    # ── 结束与观察 ────────────────────────────────────────────────────────

    def disconnect_revoked(self, revocation: Revocation) -> None:
        """关闭这次吊销涉及的、在本节点的会议连接；同步。"""
        for connection in list(self._sockets):
            principal = connection.session.principal
            if principal is not None and revocation.covers(principal):
                connection.close(CloseCode.REVOKED)

    async def close_all(
        self, code: CloseCode = CloseCode.SERVER_DRAINING, spread_s: float = 0
    ) -> None:
        """以 ``code`` 关闭所有连接，随机地分散在 ``spread_s`` 秒里（LESSONS 1）。

        返回时都已断开，已收下的转录都已存下；此后的新连接立即以同一个码关闭。

        不销号：重连到别的节点的人不会先“离开”再“到场”，真走了的到期自会宣布。
        """
        self._closing_with = code
        leaving = list(self._sockets)
        random.shuffle(leaving)
        for connection in leaving:
            connection.close(code)
            connection.part(code)
            await asyncio.sleep(spread_s / len(leaving))
        await self._wait_empty()
        await self._scribes.close(self.limits.line.open_timeout_s)
        await self._tasks.close()

    async def _wait_empty(self) -> None:
        if not self._sockets:
            return
        self._empty.clear()
        try:
            await asyncio.wait_for(self._empty.wait(), self.limits.line.close_linger_ms / 1000)
        except TimeoutError:
            for connection in list(self._sockets):
                connection.abort()

    def statistics(self) -> MeetingStatistics:
        counters = self.counters
        return MeetingStatistics(
            meetings=len(self._rooms),
            connections=sum(len(room.connections) for room in self._rooms),
            sockets=len(self._sockets),
            connections_opened=counters.connections_opened,
            frames_pushed=counters.frames_pushed,
            segments_stored=counters.segments_stored,
            interims_published=counters.interims_published,
            heartbeats=counters.heartbeats,
            refused_frames=counters.refused_frames,
            auth_failures=counters.auth_failures,
            origins_refused=counters.origins_refused,
            segments_reread=counters.segments_reread,
            drops=dict(counters.drops),
            closes=dict(counters.closes),
        )
