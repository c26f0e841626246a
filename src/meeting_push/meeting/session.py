"""一条会议连接的协议核心与上限：纯的，没有 I/O，没有自己的时钟（``now`` 是毫秒）。

转录的次序与补发不在这里：那是整场会议的事（``meeting/room.py``）。
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import BadFrameError
from ..limits.rate import Strikes, TokenBucket
from ..model import Principal
from ..protocol.codes import CloseCode
from ..protocol.commands import Beat, Close, Command, Refused, RenewToken, Reply, RequestIdValue
from ..protocol.frames import (
    ErrorFrame,
    Heartbeat,
    HeartbeatAck,
    RefreshTokenFrame,
    TokenExpiring,
    TokenRefreshed,
    encode,
    peek_request_id,
)
from ..protocol.limits import Limits
from ..protocol.session import EXPIRY_NOTICE_MS
from .frames import SegmentIn, decode_meeting_frame


@dataclass(frozen=True, slots=True)
class MeetingLimits:
    """与用户连接的互不相干（ISO-1）。``line`` 是每条连接的：帧、发件箱、心跳、握手。"""

    line: Limits
    max_text_chars: int
    frames_per_s: float
    bytes_per_s: float
    #: 每场会议，所有节点合计。
    max_connections: int
    refresh_s: float
    leave_grace_s: float


_UNSTORABLE: Final = "\x00"  # PostgreSQL 存不下


class Speak(Command, frozen=True):
    """一段合格的转录。"""

    segment: SegmentIn


class MeetingSession:
    """``seq`` 由房间随进度写入，心跳的回答里带着它：客户端由此知道自己缺不缺。"""

    __slots__ = (
        "_bad",
        "_bytes",
        "_connection_id",
        "_excess",
        "_frames",
        "_limits",
        "_warned",
        "last_heartbeat",
        "principal",
        "seq",
    )

    def __init__(self, connection_id: str, limits: MeetingLimits, now: int) -> None:
        line = limits.line
        self.principal: Principal | None = None
        self.seq = 0
        self.last_heartbeat = now
        self._connection_id = connection_id
        self._limits = limits
        self._warned = False
        self._frames = TokenBucket(limits.frames_per_s, now)
        self._bytes = TokenBucket(limits.bytes_per_s, now, line.max_frame_bytes)
        self._bad = Strikes(line.bad_frame_limit, line.bad_frame_window_ms)
        self._excess = Strikes(line.bad_frame_limit, line.bad_frame_window_ms)

    # ── 收 ────────────────────────────────────────────────────────────────

    def receive(self, text: bytes, now: int) -> Command:
        """一帧文本 → 一个命令；从不为输入抛异常。"""
        size = len(text)
        if size > self._limits.line.max_frame_bytes:
            return self._too_large(now)
        if not (self._frames.take(1, now) and self._bytes.take(size, now)):
            return self._too_fast(text, now)
        try:
            frame = decode_meeting_frame(text)
            match frame:
                case Heartbeat():
                    return self._heartbeat(frame, now)
                case RefreshTokenFrame():
                    return RenewToken(frame.token, frame.request_id)
                case SegmentIn():
                    self._check(frame)
                    return Speak(frame)
        except BadFrameError as error:
            return self._refuse(error.code, error.message, now, peek_request_id(text))

    def receive_binary(self, now: int) -> Command:
        return self._refuse("binary_not_supported", "every frame is a JSON text", now)

    def _heartbeat(self, frame: Heartbeat, now: int) -> Command:
        if frame.connection_id not in (None, self._connection_id):
            raise BadFrameError("wrong_connection", "the heartbeat names another connection")
        self.last_heartbeat = now
        return Beat(
            encode(
                HeartbeatAck(
                    timestamp=frame.timestamp,
                    server_time=now,
                    seq=self.seq,
                    request_id=frame.request_id,
                )
            )
        )

    def _check(self, frame: SegmentIn) -> None:
        limit = self._limits.max_text_chars
        if not frame.text.strip():
            raise BadFrameError("invalid_frame", "text must not be empty")
        if len(frame.text) > limit:
            raise BadFrameError("text_too_long", f"text is at most {limit} characters")
        if _UNSTORABLE in frame.text or _UNSTORABLE in (frame.speaker or ""):
            raise BadFrameError("invalid_frame", "text and speaker must not contain NUL")
        if frame.end_ms < frame.start_ms:
            raise BadFrameError("invalid_frame", "end_ms must not be before start_ms")

    # ── 拒绝 ──────────────────────────────────────────────────────────────

    def _too_large(self, now: int) -> Command:
        limit = self._limits.line.max_frame_bytes
        return self._refuse("frame_too_large", f"a frame is at most {limit} bytes", now)

    def _too_fast(self, text: bytes, now: int) -> Command:
        """这一帧没有处理；一直这样就以可重连的 4005 关闭。"""
        error = ErrorFrame(
            code="rate_limited",
            message="too many frames or bytes a second; this frame was not processed",
            temporary=True,
            request_id=peek_request_id(text),
        )
        if self._excess.strike(now):
            return Close(CloseCode.RATE_LIMITED, encode(error))
        return Refused(error.code, encode(error))

    def _refuse(
        self, code: str, message: str, now: int, request_id: RequestIdValue = None
    ) -> Command:
        frame = encode(
            ErrorFrame(code=code, message=message, temporary=False, request_id=request_id)
        )
        if self._bad.strike(now):
            return Close(CloseCode.PROTOCOL_VIOLATION, frame)
        return Refused(code, frame)

    # ── 令牌与时间 ─────────────────────────────────────────────────────────

    def token_refreshed(self, principal: Principal, request_id: RequestIdValue) -> Command:
        """换上已验证的、同一个人的新令牌。"""
        self.principal = principal
        self._warned = False
        return Reply(
            encode(TokenRefreshed(token_expires_at=principal.expires_at, request_id=request_id))
        )

    def tick(self, now: int, amnesty: int = 0) -> Command | None:
        """到点的事；``amnesty`` 之前的沉默不算。"""
        silent_since = max(self.last_heartbeat, amnesty)
        if now - silent_since > self._limits.line.heartbeat_timeout_ms:
            return Close(CloseCode.HEARTBEAT_TIMEOUT)
        if self.principal is None:
            return None
        expires_at = self.principal.expires_at
        if now >= expires_at:
            return Close(CloseCode.TOKEN_EXPIRED)
        if self._warned or now < expires_at - EXPIRY_NOTICE_MS:
            return None
        self._warned = True
        return Reply(encode(TokenExpiring(token_expires_at=expires_at)))

    def unanswered(self, now: int) -> Command | None:
        """会议没有确认，也就没有等不到的确认。"""

    def next_tick(self, now: int) -> int:
        """最早何时需要再 ``tick``。"""
        due = self.last_heartbeat + self._limits.line.heartbeat_timeout_ms + 1
        if self.principal is None:
            return due
        notice = 0 if self._warned else EXPIRY_NOTICE_MS
        return min(due, self.principal.expires_at - notice)
