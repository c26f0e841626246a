"""SSE 的一条连接：登记、限速、占座、发件箱、踢人都同 WebSocket，只有写出去的样子不同。

还没有写过的，拒绝是一个 HTTP 回答；写过了，是 ``event: close``。
"""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar, Final, Protocol

from msgspec.structs import replace

from ..http.cors import Header
from ..http.refusals import Refusal
from ..http.request_ids import NAME
from ..mailbox_model import MailboxView
from ..model import Transport
from ..protocol.codes import CloseCode, may_reconnect
from ..protocol.envelope import FrameRun, PushKey
from ..protocol.event_stream import COMMENT, EventSession
from ..protocol.session import Phase, Pushed, Session
from .handshake import Handshake, resume_point
from .line import ConnectionHost, UserConnection
from .line_host import Driver

LAST_EVENT_ID: Final = "last-event-id"
CONTENT_TYPE: Final = "text/event-stream"
#: nginx 见到 ``x-accel-buffering`` 就不攒着；别的代理见到 ``no-transform`` 不压缩。
_HEADERS: Final = (
    (b"content-type", CONTENT_TYPE.encode()),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
)
_STATUSES: Final = {
    CloseCode.TOKEN_EXPIRED: 401,
    CloseCode.INVALID_TOKEN: 401,
    CloseCode.REVOKED: 401,
    CloseCode.RATE_LIMITED: 429,
    CloseCode.TOO_MANY_CONNECTIONS: 429,
    CloseCode.SERVER_DRAINING: 503,
    CloseCode.NODE_UNHEALTHY: 503,
}
_MESSAGES: Final = {
    CloseCode.TOKEN_EXPIRED: "the token is expired, or not valid yet",
    CloseCode.INVALID_TOKEN: "no valid token",
    CloseCode.REVOKED: "the token is revoked",
    CloseCode.FORBIDDEN: "the token belongs to another user",
    CloseCode.RATE_LIMITED: "too many connections in a short time",
    CloseCode.TOO_MANY_CONNECTIONS: "too many connections",
    CloseCode.SERVER_DRAINING: "this server is leaving",
    CloseCode.NODE_UNHEALTHY: "this server can not serve now",
}


def stream_headers(request_id: str, granted: tuple[Header, ...] = ()) -> list[Header]:
    """200 的头；``granted``：CORS 的。"""
    return [*_HEADERS, (NAME, request_id.encode()), *granted]


def refusal_of(code: int) -> Refusal:
    """还没有写过就以 ``code`` 关闭的：同样意思的 HTTP 回答。"""
    known = CloseCode(code)
    status = _STATUSES.get(known, HTTPStatus.FORBIDDEN.value)
    name = known.reason
    if known in (CloseCode.SERVER_DRAINING, CloseCode.NODE_UNHEALTHY):
        name = "unavailable"
    elif status == HTTPStatus.TOO_MANY_REQUESTS:
        name = "rate_limited"
    asked = (("www-authenticate", "Bearer"),) if status == HTTPStatus.UNAUTHORIZED else ()
    again = may_reconnect(code) and status != HTTPStatus.UNAUTHORIZED
    return Refusal(status, name, _MESSAGES.get(known, known.reason), again, asked)


class EventDriver(Driver, Protocol):
    @property
    def unsent(self) -> bool:
        """写了的还没有全交给内核。"""


class EventConnection(UserConnection):
    """帧在进发件箱之前就成为事件：``id`` 说的是它前面的都写了。"""

    __slots__ = ()

    transport: ClassVar[Transport] = "sse"
    kind: ClassVar[type[Session]] = EventSession
    session: EventSession
    _driver: EventDriver

    def __init__(
        self, host: ConnectionHost, driver: EventDriver, handshake: Handshake, connection_id: str
    ) -> None:
        super().__init__(host, driver, handshake, connection_id)
        last = handshake.header(LAST_EVENT_ID)
        if last:  # 浏览器自己重连时带的，比地址里的新
            epoch, _, seq = last.rpartition(":")
            self.device = replace(self.device, resume=resume_point(epoch, seq or "?"))
        if self.device.resume is not None:
            self.session.resumed_at = self.device.resume.last_seq

    def welcome(self, view: MailboxView) -> None:
        super().welcome(view)
        self._host.on_beating(self)

    def send(self, frame: bytes, now: int) -> None:
        if self.closing_since is not None:
            return
        if frame is COMMENT:
            self._comment(now)
        else:
            super().send(self.session.event(frame), now)

    def _comment(self, now: int) -> None:
        """前面写的都走了，才算还活着；积压着的不添。"""
        if not self.outbox.clear_way:
            return
        if not self._driver.unsent:
            self.session.last_heartbeat = now
        self._write(COMMENT)

    def offer(self, frame: bytes, key: PushKey, now: int) -> None:
        session = self.session
        transient = key is None and session.phase is Phase.LIVE
        pushed = Pushed.SEND if transient else session.push(frame, key, now)
        if pushed is Pushed.SEND:
            self.send(frame, now)
        else:
            self._not_now(pushed)

    def offer_run(self, run: FrameRun, now: int) -> None:
        for frame, key in run.frames:
            self.offer(frame, key, now)
