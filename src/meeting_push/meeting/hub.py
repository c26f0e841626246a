"""MeetingHub：本节点持有的全部会议连接；与 ``ConnectionManager`` 毫无共享（ISO-1）。

一条连接的路：``accept`` → 认证 → 座位、许可 → 房间（先订阅，后读起点）→ 到场 → welcome → 补发。
一段转录的路：``Requests`` → ``Scribes``（先存，后发布）→ 频道 → ``Room``（排序）→ 各连接。
定期的事在 ``Keeper``：续在场，清掉死节点留下的，与记录核对有没有漏段、漏了结束。
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

from ..clock import Clock, now_ms
from ..contracts import Seats
from ..errors import MeetingPushError, UnavailableError
from ..logs import RepeatedWarning, logger
from ..meeting_model import MeetingView
from ..model import RECORDER_ROLE, Principal, Revocation
from ..protocol.codes import CloseCode
from ..protocol.frames import encode
from ..protocol.limits import Limits
from ..redis.meeting_bus import MeetingBus, Online, Space
from ..settings import MeetingSettings
from ..supervision import Aside, patiently, periodically, woken
from ..websocket.admission import Admission
from ..websocket.handshake import Authenticator, Device, Handshake, close_code_for
from ..websocket.line_host import Driver
from ..websocket.lines import Lines, send_off
from .connection import MeetingConnection, MeetingCounters, MeetingStatistics
from .frames import Attendee, Join, Leave, MeetingWelcome
from .requests import Requests, Scribes
from .room import History, OpenRooms, Room
from .service import MeetingDesk
from .session import MeetingLimits


class MeetingHub(Lines[MeetingConnection]):
    """``keeper.run`` 也须由监督者一直运行；``close_all`` 之后不再接受。

    ``admission``、``seats`` 就是用户连接的那两个：换一扇门进来不多得一份（A11）。
    """

    counters: MeetingCounters

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        desk: MeetingDesk,
        bus: MeetingBus,
        limits: MeetingLimits,
        admission: Admission,
        seats: Seats,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        super().__init__(authenticator, admission, limits.line, MeetingCounters(), clock)
        self.limits = limits
        self._desk = desk
        self._seats = seats
        self._bus = bus
        self._rooms = OpenRooms(desk, bus, self._tasks, self.counters, clock)
        self._scribes = Scribes(desk, bus, self.counters, self._on_unpublished)
        self._history = History(desk, clock)
        self.on_command = Requests(
            self._scribes,
            bus,
            authenticator,
            self.counters,
            self._tasks,
            self.heartbeat.schedule,
            clock,
        ).handle
        self.keeper = Keeper(self._rooms, desk, bus, limits.own.refresh_s, clock)
        self.on_channel_message = self._rooms.on_channel_message

    # ── 连接 ──────────────────────────────────────────────────────────────

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
        if self._arrive(connection):
            joining = self._admit(connection, handshake)
            connection.task = self._tasks.spawn(joining, "meeting_join")
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
        """认证、座位与许可；不许则关闭并返回 None。"""
        principal = await self._identify(connection, handshake, self.authenticator.identify)
        if principal is None:
            return None
        # 从验证到登记没有 await：期间的吊销不会漏掉这条连接
        connection.session.authenticated(principal)
        self.heartbeat.schedule(connection)
        async with asyncio.timeout(self.limits.line.open_timeout_s):
            if not await self._seated(connection, handshake):
                self.turn_away(connection, CloseCode.TOO_MANY_CONNECTIONS)
                return None
            try:
                return await patiently(lambda: self._desk.admit(connection.meeting_id, principal))
            except MeetingPushError as error:
                self.counters.auth_failures += 1
                self.turn_away(connection, close_code_for(error))
                return None

    async def _seated(self, connection: MeetingConnection, handshake: Handshake) -> bool:
        """一场会议里的一台设备是它自己的座位：不顶掉同一台设备的用户连接。"""
        connection_id = connection.connection_id
        device_id = Device.of(handshake, connection_id).device_id
        connection.seated = True  # 先记下：途中断开也要让出
        return await patiently(
            lambda: self._seats.claim(
                connection.principal.user_id,
                connection_id,
                f"{connection.meeting_id}/{device_id}",
            )
        )

    async def _join(self, connection: MeetingConnection, view: MeetingView) -> Room:
        """房间（先订阅，后读起点）→ 到场 → welcome；满了则关闭。"""
        space = space_for(connection.principal, view, self.limits.own.max_connections)
        room = await self._rooms.enter(connection)
        connection.entered = True  # 先记下：途中断开也要销号
        online = await patiently(lambda: self._bus.enter(room.meeting_id, connection.member, space))
        if online is None:
            connection.entered = False
            self.turn_away(connection, CloseCode.TOO_MANY_CONNECTIONS)
            return room
        room.online.update(online)
        # 许可之后房间也许又走了几步；房间也可能还没收到记录里已有的
        newest = max(view.meeting.seq, room.seq)
        if connection.session.seq > newest:
            connection.session.seq = 0  # 它声称有我们没有的：全部重来，welcome 的 seq 会说明
        shown = await patiently(lambda: self._desk.shown(one.user_id for one in view.participants))
        names = {shown[one.user_id]: one.name for one in view.participants}
        names |= {person: name for person, name in online.items() if person not in names}
        people = [Attendee(person, name, person in online) for person, name in names.items()]
        connection.welcome(self._welcome(connection, view, people, newest), self.clock())
        return room

    def _welcome(
        self, connection: MeetingConnection, view: MeetingView, people: Sequence[Attendee], seq: int
    ) -> bytes:
        line, principal = self.limits.line, connection.principal
        return encode(
            MeetingWelcome(
                connection_id=connection.connection_id,
                meeting_id=connection.meeting_id,
                title=view.meeting.title,
                user_id=principal.person,
                seq=seq,
                participants=people,
                ended_at=view.meeting.ended_at,
                heartbeat_interval_s=line.heartbeat_interval_s,
                heartbeat_timeout_s=line.heartbeat_timeout_s,
                max_frame_bytes=line.max_frame_bytes,
                max_text_chars=self.limits.own.max_text_chars,
                token_expires_at=principal.expires_at,
                server_time=self.clock(),
            )
        )

    # ── 离开 ──────────────────────────────────────────────────────────────

    def _depart(self, connection: MeetingConnection) -> None:
        super()._depart(connection)
        self._rooms.leave(connection)
        if connection.seated:
            connection.seated = False
            self._seats.release(connection.principal.user_id, connection.connection_id)
        if connection.entered:
            connection.entered = False
            self._tasks.spawn(self._sign_out(connection.meeting_id, connection.member), "leave")

    async def _sign_out(self, meeting_id: str, member: str) -> None:
        """过了宽限才销号：刷新页面、换个节点重连，别人看不见抖动（LESSONS 8）。"""
        await asyncio.sleep(self.limits.own.leave_grace_s)
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
        self.refuse(code)
        await send_off(self._sockets, code, spread_s)
        for connection in list(self._sockets):
            connection.part(code)
        await self._wait_empty()
        await self._scribes.close(self.limits.line.open_timeout_s)
        await self._tasks.close()

    def statistics(self) -> MeetingStatistics:
        return MeetingStatistics(
            **self.counters.snapshot(),
            meetings=len(self._rooms),
            connections=sum(len(room.connections) for room in self._rooms),
            sockets=len(self._sockets),
        )


def space_for(principal: Principal, view: MeetingView, max_connections: int) -> Space:
    """每个参与者都有自己的一份，谁也占不完；召开者与识别器满了也进得来。"""
    share = max(1, max_connections // max(1, len(view.participants)))
    always = principal.user_id == view.meeting.organizer_id or principal.role == RECORDER_ROLE
    return Space(max_connections, share, always)


def limits_of_meetings(settings: MeetingSettings, line: Limits) -> MeetingLimits:
    """``line``：用户连接的；帧与发件箱用会议自己的。"""
    line = replace(
        line,
        max_frame_bytes=settings.max_frame_bytes,
        outbox_max_bytes=settings.outbox_max_bytes,
    )
    return MeetingLimits(line, settings)


class Keeper:
    """``run`` 由监督者一直运行。"""

    def __init__(
        self, rooms: OpenRooms, desk: MeetingDesk, bus: MeetingBus, refresh_s: float, clock: Clock
    ) -> None:
        self._rooms = rooms
        self._desk = desk
        self._bus = bus
        self._refresh_s = refresh_s
        self._clock = clock
        self._aside = Aside("meeting-keeper")
        self._deaf = asyncio.Event()
        self._failed = RepeatedWarning("meeting_keeping_failed")

    def resubscribed(self) -> None:
        """频道断过又订上了：这期间的段、到场与离开都没有收到。"""
        self._deaf.set()

    async def run(self) -> None:
        pause = partial(woken, self._deaf, self._refresh_s)
        await periodically(self._keep_or_restate, pause, self._failed)

    async def _keep_or_restate(self) -> None:
        was_deaf = self._deaf.is_set()
        self._deaf.clear()
        try:
            await self._keep(restate=was_deaf)
        except MeetingPushError:
            if was_deaf:
                self._deaf.set()
            raise

    async def _keep(self, *, restate: bool) -> None:
        rooms = [room for room in self._rooms if room.connections]
        if not rooms:
            return
        positions = await self._desk.positions([room.meeting_id for room in rooms])
        for room in rooms:
            if room.meeting_id in positions:
                room.reconcile(positions[room.meeting_id])
        # 一间的键坏了，别的照续
        work = self._restate_all if restate else self._refresh_all
        await self._aside.isolate(rooms, work, lambda room: room.meeting_id)

    async def _restate_all(self, rooms: Sequence[Room]) -> None:
        for room in rooms:
            await self._restate(room)

    async def _refresh_all(self, rooms: Sequence[Room]) -> None:
        for room in rooms:
            await self._refresh(room)

    async def _refresh(self, room: Room) -> Online:
        members = [connection.member for connection in room.connections if connection.entered]
        return await self._bus.refresh(room.meeting_id, members)

    async def _restate(self, room: Room) -> None:
        """把此刻在场的人重说一遍；读的时候又有变化就再读，免得旧的盖过新的。

        这期间离开会议的人，也没有听说：名单上没有的送走。
        """
        members = await self._desk.member_ids(room.meeting_id)
        room.expel(lambda user_id: user_id not in members)
        while True:
            version = room.presence_version
            online = await self._refresh(room)
            if version == room.presence_version:
                break
        now = self._clock()
        for user_id, name in [*room.online.items()]:
            if user_id not in online:
                leave = Leave(user_id=user_id, name=name, online=False, timestamp=now)
                room.restate(leave, encode(leave))
        for user_id, name in online.items():
            join = Join(user_id=user_id, name=name, online=True, timestamp=now)
            room.restate(join, encode(join))
