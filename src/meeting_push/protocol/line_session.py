"""两种连接的会话都一样的那一半：心跳、令牌的期限、坏帧。纯的，没有自己的时钟（``now`` 是毫秒）。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..model import Principal
from .codes import CloseCode
from .commands import Beat, Close, Command, Refused, Reply, RequestIdValue
from .frames import ErrorFrame, Heartbeat, HeartbeatAck, TokenExpiring, TokenRefreshed, encode
from .limits import Limits

#: 令牌到期前多久提醒。
EXPIRY_NOTICE_MS: Final = 60_000
#: 一个没有做成的请求算几分之一个坏帧：偶尔要多了、不许的都是常事，一遍遍地撞门不是。
FAILURES_EACH: Final = 2


class LineSession:
    """属性由各自的构造函数填：连接时不多一次调用。"""

    __slots__ = (
        "_bad",
        "_failures",
        "_limits",
        "_warned",
        "connection_id",
        "last_heartbeat",
        "token_expires_at",
    )

    connection_id: str
    last_heartbeat: int
    token_expires_at: int | None
    _limits: Limits
    _warned: bool
    #: 窗口里的坏帧各在何时。
    _bad: Sequence[int]
    #: 窗口里没有做成的请求各在何时。
    _failures: Sequence[int]

    @property
    def greeted(self) -> bool:
        """可以发别的帧了。"""
        return True

    # ── 收 ────────────────────────────────────────────────────────────────

    def receive(self, text: bytes, now: int) -> Command:
        """一帧文本 → 一个命令。坏帧也是命令，从不为输入抛异常。"""
        raise NotImplementedError

    def receive_binary(self, now: int) -> Command:
        return self.refuse("binary_not_supported", "every frame is a JSON text", now)

    def too_large(self, now: int) -> Command:
        limit = self._limits.max_frame_bytes
        return self.refuse("frame_too_large", f"a frame is at most {limit} bytes", now)

    def beat(self, frame: Heartbeat, seq: int, now: int) -> Command:
        """``seq`` 是所知的最新的：客户端由此知道自己缺不缺。"""
        if frame.connection_id not in (None, self.connection_id):
            text = "the heartbeat names another connection"
            return self.refuse("wrong_connection", text, now, frame.request_id)
        self.last_heartbeat = now
        answer = HeartbeatAck(
            timestamp=frame.timestamp, server_time=now, seq=seq, request_id=frame.request_id
        )
        return Beat(encode(answer))

    def refuse(
        self, code: str, message: str, now: int, request_id: RequestIdValue = None
    ) -> Command:
        """一个坏帧：回 ``error``；窗口里攒够了就关（4504）。"""
        error = ErrorFrame(code=code, message=message, temporary=False, request_id=request_id)
        self._bad = self._recent(self._bad, now)
        return self._strike(error, len(self._bad), CloseCode.PROTOCOL_VIOLATION)

    def fail(self, error: ErrorFrame, now: int) -> Command:
        """因为他而没有做成的请求（不许、太勤、太多）：回 ``error``；窗口里攒够了就关（4005）。"""
        self._failures = self._recent(self._failures, now)
        return self._strike(error, len(self._failures) // FAILURES_EACH, CloseCode.RATE_LIMITED)

    def _recent(self, strikes: Sequence[int], now: int) -> Sequence[int]:
        """窗口里的各次，连同现在这一次。"""
        since = now - self._limits.bad_frame_window_ms
        return [*(at for at in strikes if at > since), now]

    def _strike(self, error: ErrorFrame, strikes: int, code: CloseCode) -> Command:
        if strikes >= self._limits.bad_frame_limit:
            return Close(code, encode(error))
        return Refused(error.code, encode(error))

    def missed_a_beat(self, now: int) -> bool:
        """心跳晚了半个间隔以上：线的那一头多半没有人了。"""
        return now - self.last_heartbeat > self._limits.heartbeat_interval_s * 1500

    # ── 令牌与时间 ─────────────────────────────────────────────────────────

    def token_refreshed(self, principal: Principal, request_id: RequestIdValue) -> Command:
        """换上已验证的、同一个人的新令牌。"""
        self.token_expires_at = principal.expires_at
        self._warned = False
        return Reply(
            encode(TokenRefreshed(token_expires_at=principal.expires_at, request_id=request_id))
        )

    def tick(self, now: int, amnesty: int = 0) -> Command | None:
        """到点的事；``amnesty`` 之前的沉默不算（我们自己停顿过，心跳也许还没读）。"""
        silent_since = max(self.last_heartbeat, amnesty)
        if now - silent_since > self._limits.heartbeat_timeout_ms:
            return Close(CloseCode.HEARTBEAT_TIMEOUT)
        expires_at = self.token_expires_at
        if expires_at is None:
            return None
        if now >= expires_at:
            return Close(CloseCode.TOKEN_EXPIRED)
        if self._warned or now < expires_at - EXPIRY_NOTICE_MS or not self.greeted:
            return None
        self._warned = True
        return Reply(encode(TokenExpiring(token_expires_at=expires_at)))

    def unanswered(self, now: int) -> Command | None:
        """推了太久还没有确认的；没有确认的连接也就没有。"""

    def next_tick(self, now: int) -> int:
        """最早何时需要再 ``tick``、再问 ``unanswered``。"""
        raise NotImplementedError
