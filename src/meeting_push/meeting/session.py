"""一条会议连接的协议核心与上限：纯的，没有 I/O，没有自己的时钟（``now`` 是毫秒）。

转录的次序与补发不在这里：那是整场会议的事（``meeting/room.py``）。
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import BadFrameError
from ..limits.rate import TokenBucket
from ..model import Principal
from ..protocol.codes import CloseCode
from ..protocol.commands import Command, RequestIdValue
from ..protocol.frames import ErrorFrame, Heartbeat, peek_request_id
from ..protocol.limits import Limits
from ..protocol.line_session import EXPIRY_NOTICE_MS, LineSession
from ..settings import MeetingSettings
from .frames import SegmentIn, decode_meeting_frame


@dataclass(frozen=True, slots=True)
class MeetingLimits:
    """与用户连接的互不相干（ISO-1）。``line`` 是每条连接的：帧、发件箱、心跳、握手。"""

    line: Limits
    own: MeetingSettings


_UNSTORABLE: Final = "\x00"  # PostgreSQL 存不下


class MeetingSession(LineSession):
    """``seq`` 由房间随进度写入，心跳的回答里带着它：客户端由此知道自己缺不缺。"""

    __slots__ = ("_bytes", "_excess", "_frames", "_max_text_chars", "principal", "seq")

    def __init__(self, connection_id: str, limits: MeetingLimits, now: int) -> None:
        line = self._limits = limits.line
        self.connection_id = connection_id
        self.principal: Principal | None = None
        self.token_expires_at = None
        self.seq = 0
        self.last_heartbeat = now
        self._max_text_chars = limits.own.max_text_chars
        self._warned = False
        self._frames = TokenBucket(limits.own.frames_per_s, now)
        self._bytes = TokenBucket(limits.own.bytes_per_s, now, line.max_frame_bytes)
        self._bad = self._failures = ()
        self._excess: Sequence[int] = ()

    # ── 收 ────────────────────────────────────────────────────────────────

    def receive(self, text: bytes, now: int) -> Command:
        size = len(text)
        if size > self._limits.max_frame_bytes:
            return self.too_large(now)
        if not (self._frames.take(1, now) and self._bytes.take(size, now)):
            return self._too_fast(text, now)
        try:
            frame = decode_meeting_frame(text)
            if isinstance(frame, SegmentIn):
                self._check(frame)
        except BadFrameError as error:
            return self.refuse(error.code, error.message, now, peek_request_id(text))
        return self.beat(frame, self.seq, now) if isinstance(frame, Heartbeat) else frame

    def _check(self, frame: SegmentIn) -> None:
        limit = self._max_text_chars
        if not frame.text.strip():
            raise BadFrameError("invalid_frame", "text must not be empty")
        if len(frame.text) > limit:
            raise BadFrameError("text_too_long", f"text is at most {limit} characters")
        if _UNSTORABLE in frame.text or _UNSTORABLE in (frame.speaker or ""):
            raise BadFrameError("invalid_frame", "text and speaker must not contain NUL")
        if frame.end_ms < frame.start_ms:
            raise BadFrameError("invalid_frame", "end_ms must not be before start_ms")

    def _too_fast(self, text: bytes, now: int) -> Command:
        """这一帧没有处理；一直这样就以可重连的 4005 关闭。"""
        error = ErrorFrame(
            code="rate_limited",
            message="too many frames or bytes a second; this frame was not processed",
            temporary=True,
            request_id=peek_request_id(text),
        )
        self._excess = self._recent(self._excess, now)
        return self._strike(error, len(self._excess), CloseCode.RATE_LIMITED)

    # ── 令牌与时间 ─────────────────────────────────────────────────────────

    def authenticated(self, principal: Principal) -> None:
        self.principal = principal
        self.token_expires_at = principal.expires_at

    def token_refreshed(self, principal: Principal, request_id: RequestIdValue) -> Command:
        self.principal = principal
        return super().token_refreshed(principal, request_id)

    def next_tick(self, now: int) -> int:
        due = self.last_heartbeat + self._limits.heartbeat_timeout_ms + 1
        if self.token_expires_at is None:
            return due
        notice = 0 if self._warned else EXPIRY_NOTICE_MS
        return min(due, self.token_expires_at - notice)
