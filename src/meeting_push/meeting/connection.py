"""一台设备在一场会议里的一条连接：会话 + 发件箱 + 驱动；与会议的计数。"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from ..errors import MeetingPushError
from ..model import Principal
from ..protocol.codes import CloseCode
from ..protocol.commands import RequestIdValue
from ..protocol.frames import ErrorFrame
from ..protocol.outbox import HeldFrames
from ..redis.meeting_bus import member_of
from ..websocket.line import Line
from ..websocket.line_host import Driver, LineCounters, LineHost
from .frames import SegmentResult
from .session import MeetingLimits, MeetingSession

#: 常见的原因；别的错误（``request_<code>``、``not_stored_<code>``）发生了才有。
MEETING_DROP_REASONS: Final = (
    *("busy", "no_connection", "malformed_envelope", "outbox_overflow"),
    *("request_redis_unavailable", "request_database_unavailable"),
    *("not_stored_database_unavailable", "not_stored_meeting_ended"),
)


class MeetingHost(LineHost, Protocol):
    """连接的主人（``MeetingHub``）。"""

    limits: MeetingLimits


@dataclass(slots=True)
class MeetingCounters(LineCounters):
    segments_stored: int = 0
    interims_published: int = 0
    #: 频道上漏了而从记录里补上的段。
    segments_reread: int = 0


@dataclass(slots=True)
class MeetingStatistics(MeetingCounters):
    """``MeetingHub.statistics()`` 的快照；``sockets`` 还含认证中与正在关闭的。"""

    meetings: int = 0
    connections: int = 0
    sockets: int = 0


class MeetingConnection(Line):
    """``live`` 之前只补发：实时的不该先于历史。"""

    __slots__ = ("_held", "_last_frame", "entered", "live", "meeting_id", "seated")

    _host: MeetingHost
    session: MeetingSession

    def __init__(
        self,
        host: MeetingHost,
        driver: Driver,
        meeting_id: str,
        ip_address: str,
        connection_id: str,
    ) -> None:
        super().__init__(host, driver, host.limits.line, connection_id, ip_address)
        self.meeting_id = meeting_id
        #: ``session.seq`` 是已写给它（或已排队）的最后一段。
        self.session = MeetingSession(connection_id, host.limits, host.clock())
        #: 补发完毕，新的段直接写给它。
        self.live = False
        #: 已算在场，离开时须销号。
        self.entered = False
        #: 占着（或正要占）一个座位，离开时须让出。
        self.seated = False
        self._held = HeldFrames()
        self._last_frame: bytes | None = None

    @property
    def principal(self) -> Principal:
        assert self.session.principal is not None, "not authenticated yet"
        return self.session.principal

    @property
    def known_user_id(self) -> int | None:
        return None if self.session.principal is None else self.session.principal.user_id

    @property
    def member(self) -> str:
        principal = self.principal
        return member_of(principal.person, self.connection_id, principal.name)

    # ── 推 ────────────────────────────────────────────────────────────────

    def send(self, frame: bytes, now: int) -> None:
        if self._last_frame is None:
            super().send(frame, now)

    def push_segment(self, seq: int, frame: bytes, now: int) -> None:
        """号为 ``seq`` 的一段；补发已给过的不再给。"""
        if self.live and seq > self.session.seq:
            self.session.seq = seq
            self.send(frame, now)

    def push_interim(self, frame: bytes, now: int) -> None:
        """临时的：还在补发的不给，它不该先于历史。"""
        if self.live:
            self.send(frame, now)

    def push_presence(self, frame: bytes, now: int) -> None:
        """``join``、``leave``：welcome 之前到来的留到它之后。"""
        if self.welcomed:
            self.send(frame, now)
        elif not self._held.add(frame, None, self._host.limits.line.held_max_bytes):
            self.close(CloseCode.SLOW_CONSUMER)

    def welcome(self, frame: bytes, now: int) -> None:
        """第一帧；随后放行暂存的在场变化，处理抢先发来的帧。"""
        self.send(frame, now)
        self.welcomed = True
        for _, held, _ in self._held.take():
            self.send(held, now)
        self.receive_early()

    def finish(self, frame: bytes, now: int) -> None:
        """最后一帧，写完之后以 1000 关闭；读得慢的先让它读完（时限同平常）。"""
        self.send(frame, now)
        self._last_frame = frame
        if self.outbox.blocked_since is None:
            self.close(CloseCode.NORMAL)

    def stored(self, seq: int, request_id: RequestIdValue) -> None:
        self.requests -= 1
        if request_id is not None:
            self.answer(SegmentResult(seq=seq, request_id=request_id))

    def not_stored(self, error: MeetingPushError, request_id: RequestIdValue) -> None:
        self.requests -= 1
        self.answer(ErrorFrame.of(error, request_id))

    def unblocked(self) -> None:
        super().unblocked()
        if self._last_frame is not None and self.outbox.blocked_since is None:
            self.close(CloseCode.NORMAL)

    def _end(self) -> None:
        super()._end()
        self.live = False
