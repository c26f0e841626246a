"""客户端请求的去处：会话给出的命令在这里变成动作。"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Final

from ..clock import Clock
from ..errors import ForbiddenError, MeetingPushError, RateLimitedError
from ..model import RECORDER_ROLE, Principal, Utterance
from ..protocol import commands
from ..protocol.commands import RequestIdValue
from ..protocol.frames import encode
from ..redis.meeting_bus import MeetingBus
from ..websocket.authenticator import Authenticator, close_code_for, is_about_the_token
from ..websocket.tasks import Tasks
from .connection import MeetingConnection
from .frames import SegmentFrame, SegmentIn, SegmentResult
from .scribe import Note, Scribes
from .session import Speak
from .statistics import MeetingCounters

#: 一条连接还没有回答的请求（待存的段、换令牌）；再多则回 ``busy``。
MAX_REQUESTS: Final = 64


def _speaker(principal: Principal, segment: SegmentIn) -> str:
    """说话的人：识别器听得出几个人，由它说；别人只能是自己（A17：转录里不能冒名）。"""
    named = segment.speaker if principal.role == RECORDER_ROLE else None
    return named or principal.name or str(principal.user_id)


class Requests:
    """``handle`` 同步、不抛出。"""

    def __init__(
        self,
        scribes: Scribes,
        bus: MeetingBus,
        authenticator: Authenticator,
        counters: MeetingCounters,
        tasks: Tasks,
        reschedule: Callable[[MeetingConnection], None],
        clock: Clock,
    ) -> None:
        self._scribes = scribes
        self._bus = bus
        self._authenticator = authenticator
        self._counters = counters
        self._tasks = tasks
        self._reschedule = reschedule
        self._clock = clock

    def handle(self, connection: MeetingConnection, command: commands.Command) -> None:
        match command:
            case Speak():
                self._speak(connection, command.segment)
            case commands.Beat():
                self._counters.heartbeats += 1
                connection.reply(command.frame)
            case commands.Reply():
                connection.reply(command.frame)
            case commands.Refused():
                self._counters.refused_frames += 1
                connection.reply(command.frame)
            case commands.RefreshToken():
                self._refresh(connection, command)
            case commands.Close():
                self._close(connection, command)
            case _:
                raise AssertionError(f"unknown command {type(command).__name__}")

    # ── 转录 ──────────────────────────────────────────────────────────────

    def _speak(self, connection: MeetingConnection, segment: SegmentIn) -> None:
        if not self._has_room(connection, segment.request_id):
            return
        principal = connection.principal
        utterance = Utterance(
            sender_id=principal.user_id,
            speaker=_speaker(principal, segment),
            text=segment.text,
            start_ms=segment.start_ms,
            end_ms=segment.end_ms,
        )
        if segment.interim:
            work = self._publish_interim(connection, utterance, segment.request_id)
            self._later(connection, work, segment.request_id)
        else:
            connection.requests += 1  # Scribes 写完后由 stored / not_stored 减去
            self._scribes.write(
                connection.meeting_id, Note(connection, utterance, segment.request_id)
            )

    async def _publish_interim(
        self, connection: MeetingConnection, utterance: Utterance, request_id: RequestIdValue
    ) -> None:
        frame = SegmentFrame(
            seq=None,
            interim=True,
            speaker=utterance.speaker,
            text=utterance.text,
            start_ms=utterance.start_ms,
            end_ms=utterance.end_ms,
            sender_id=utterance.sender_id,
            timestamp=self._clock(),
        )
        await self._bus.publish(connection.meeting_id, [encode(frame)])
        self._counters.interims_published += 1
        if request_id is not None:
            connection.answer(SegmentResult(seq=None, request_id=request_id))

    # ── 令牌 ──────────────────────────────────────────────────────────────

    def _refresh(self, connection: MeetingConnection, command: commands.RefreshToken) -> None:
        if self._has_room(connection, command.request_id):
            self._later(connection, self._exchange(connection, command), command.request_id)

    async def _exchange(
        self, connection: MeetingConnection, command: commands.RefreshToken
    ) -> None:
        principal = connection.principal
        try:
            fresh = await self._authenticator.refresh(
                command.token, principal.user_id, connection.ip_address
            )
            if fresh.role != principal.role:
                raise ForbiddenError("the role has changed")  # 许可是按角色给的
        except MeetingPushError as error:
            if not is_about_the_token(error):
                raise
            connection.close(close_code_for(error))
            return
        # 名字是在场登记的一部分，这条连接上不变
        fresh = replace(fresh, name=principal.name)
        answer = connection.session.token_refreshed(fresh, command.request_id)
        self._reschedule(connection)
        self.handle(connection, answer)

    def _close(self, connection: MeetingConnection, command: commands.Close) -> None:
        if command.frame is not None:
            self._counters.refused_frames += 1
            connection.reply(command.frame)
        connection.close(command.code)

    # ── 后台 ──────────────────────────────────────────────────────────────

    def _has_room(self, connection: MeetingConnection, request_id: RequestIdValue) -> bool:
        if connection.requests < MAX_REQUESTS:
            return True
        self._counters.drops["busy"] += 1
        connection.refuse(RateLimitedError("too many unanswered requests"), request_id)
        return False

    def _later(
        self,
        connection: MeetingConnection,
        work: Coroutine[object, object, None],
        request_id: RequestIdValue,
    ) -> None:
        connection.requests += 1
        self._tasks.spawn(self._run(connection, work, request_id), "meeting_request")

    async def _run(
        self,
        connection: MeetingConnection,
        work: Coroutine[object, object, None],
        request_id: RequestIdValue,
    ) -> None:
        try:
            await work
        except MeetingPushError as error:
            self._counters.drops[f"request_{error.code}"] += 1
            connection.refuse(error, request_id)
        finally:
            connection.requests -= 1
