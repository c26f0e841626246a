"""会议的门：地址、节点、快慢、设备数与用户连接合在一起算，然后才问他该不该进（A11）。"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from ..contracts import MeetingDesk, Seats
from ..errors import MeetingPushError
from ..limits.rate import rate_key
from ..model import RECORDER_ROLE, MeetingView, Principal
from ..protocol.codes import CloseCode
from ..protocol.limits import Limits
from ..redis.meeting_bus import Space
from ..settings import Settings
from ..supervision import patiently
from ..websocket.admission import Admission, limits_of
from ..websocket.authenticator import Authenticator, close_code_for, who_failed
from ..websocket.handshake import Device, Handshake
from .connection import MeetingConnection, MeetingCounters
from .session import MeetingLimits


class Entrance:
    """``admission``、``seats`` 就是用户连接的那两个：换一扇门进来不多得一份。"""

    def __init__(
        self,
        authenticator: Authenticator,
        desk: MeetingDesk,
        admission: Admission,
        seats: Seats | None,
        limits: Limits,
        counters: MeetingCounters,
    ) -> None:
        self._authenticator = authenticator
        self._desk = desk
        self._admission = admission
        self._seats = seats
        self._limits = limits
        self._counters = counters

    def enter(self, connection: MeetingConnection) -> bool:
        """登记；节点或地址满了则 False（登记仍算数，直到 ``leave``）。"""
        return self._admission.enter(connection.ip_address)

    def turn_away(self, connection: MeetingConnection, code: CloseCode) -> None:
        """在门口拒绝；一再来的，晚些才说。"""
        principal = connection.session.principal
        key = rate_key(connection.ip_address) if principal is None else principal.user_id
        connection.close(code, self._admission.closing_delay_s(key))

    async def keep_waiting(self, ip_address: str) -> None:
        """升级之前的拒绝：等到该说了为止。"""
        await self._admission.keep_waiting(rate_key(ip_address))

    def leave(self, connection: MeetingConnection) -> None:
        self._admission.leave(connection.ip_address)

    async def authenticate(
        self, connection: MeetingConnection, handshake: Handshake
    ) -> Principal | None:
        """等到轮到，再验证；不许则关闭并返回 None。"""
        if not self._authenticator.suspects(handshake) and not await self._admission.turn():
            self.turn_away(connection, CloseCode.RATE_LIMITED)
            return None
        try:
            async with asyncio.timeout(self._limits.handshake_timeout_s):
                return await self._authenticator.identify(handshake)
        except MeetingPushError as error:
            self._counters.auth_failures += 1
            delay_s = self._admission.failure_delay_s(who_failed(error, connection.ip_address))
            connection.close(close_code_for(error), delay_s)
            return None

    async def permit(
        self, connection: MeetingConnection, handshake: Handshake
    ) -> MeetingView | None:
        """座位与许可；不许则关闭并返回 None。"""
        principal, meeting_id = connection.principal, connection.meeting_id
        async with asyncio.timeout(self._limits.open_timeout_s):
            if not await self._seated(connection, handshake):
                self.turn_away(connection, CloseCode.TOO_MANY_CONNECTIONS)
                return None
            try:
                return await patiently(lambda: self._desk.admit(meeting_id, principal))
            except MeetingPushError as error:
                self._counters.auth_failures += 1
                self.turn_away(connection, close_code_for(error))
                return None

    async def _seated(self, connection: MeetingConnection, handshake: Handshake) -> bool:
        """一场会议里的一台设备是它自己的座位：不顶掉同一台设备的用户连接。"""
        if (seats := self._seats) is None:
            return True
        connection_id = connection.connection_id
        device_id = Device.of(handshake, connection_id).device_id
        connection.seated = True  # 先记下：途中断开也要让出
        return await patiently(
            lambda: seats.claim(
                connection.principal.user_id,
                connection_id,
                f"{connection.meeting_id}/{device_id}",
            )
        )

    def stand_up(self, connection: MeetingConnection) -> None:
        """让出座位；没有也无害。"""
        if connection.seated and self._seats is not None:
            connection.seated = False
            self._seats.release(connection.principal.user_id, connection.connection_id)


def space_for(principal: Principal, view: MeetingView, max_connections: int) -> Space:
    """每个参与者都有自己的一份，谁也占不完；召开者与识别器满了也进得来。"""
    share = max(1, max_connections // max(1, len(view.participants)))
    always = principal.user_id == view.meeting.organizer_id or principal.role == RECORDER_ROLE
    return Space(max_connections, share, always)


def limits_of_meetings(settings: Settings) -> MeetingLimits:
    line = replace(
        limits_of(settings),
        max_frame_bytes=settings.meeting_max_frame_bytes,
        outbox_max_bytes=settings.meeting_outbox_max_bytes,
    )
    return MeetingLimits(
        line=line,
        max_text_chars=settings.meeting_max_text_chars,
        frames_per_s=settings.meeting_frames_per_s,
        bytes_per_s=settings.meeting_bytes_per_s,
        max_connections=settings.meeting_max_connections,
        refresh_s=settings.meeting_refresh_s,
        leave_grace_s=settings.meeting_leave_grace_s,
    )
