"""门口自己的回答与告别：还没有到任何路由就拒绝的，也是 contract 的错误体，答完就关。

直接 ``close`` 的话，内核里还有没读的就发 RST，对方多半读不到回答：所以半关，对方再说的都丢掉，
几秒之内断开。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Any, Final

import msgspec

_RETRY_AFTER_S: Final = 1


@dataclass(frozen=True)
class Refusal:
    status: int
    code: str
    message: str
    temporary: bool = False
    #: 小写的名字与值。
    headers: tuple[tuple[str, str], ...] = ()

    @cached_property
    def body(self) -> bytes:
        error = {
            "code": self.code,
            "message": self.message,
            "temporary": self.temporary,
            "details": None,
        }
        return msgspec.json.encode({"error": error})

    @cached_property
    def wire(self) -> bytes:
        """完整的 HTTP/1.1 应答。"""
        retry = (("retry-after", str(_RETRY_AFTER_S)),) if self.temporary else ()
        more = "".join(f"{name}: {value}\r\n" for name, value in (*self.headers, *retry))
        head = (
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(self.body)}\r\n"
            f"{more}connection: close\r\n\r\n"
        )
        return head.encode() + self.body


BAD_REQUEST: Final = Refusal(400, "bad_request", "this is not an HTTP/1.1 request")
NOT_FOUND: Final = Refusal(404, "not_found", "there is no WebSocket here")
FOREIGN_ORIGIN: Final = Refusal(403, "forbidden", "this origin is not allowed")
TOO_SLOW: Final = Refusal(408, "request_timeout", "the request took too long", temporary=True)
HEAD_TOO_LARGE: Final = Refusal(
    431, "header_fields_too_large", "too many or too large header fields"
)
PADDED_BODY: Final = Refusal(
    413, "payload_too_large", "the body is mostly chunk sizes, extensions or trailers"
)
TOO_MANY_HERE: Final = Refusal(
    429, "rate_limited", "too many connections from this address", temporary=True
)
CROWDED: Final = Refusal(503, "overloaded", "this server is full", temporary=True)
#: 再等没有好处：它已经等过了，或占着的正是缺的。
AT_ONCE: Final = (TOO_SLOW, CROWDED)
#: 每个进程在门口都可能说的；指标从 0 开始就有它们。
REFUSALS: Final = (
    *(BAD_REQUEST, NOT_FOUND, FOREIGN_ORIGIN, TOO_SLOW),
    *(HEAD_TOO_LARGE, PADDED_BODY, TOO_MANY_HERE, CROWDED),
)


#: 答完之后还听多久、多少，好让回答先到。
LINGER_S: Final = 2.0
MAX_DISCARDED: Final = 16 * 1024 * 1024
DISCARDED_AT_ONCE: Final = 64 * 1024
DISCARD_PAUSE_S: Final = 0.03
#: 应答每半个期限至少走这么多，否则算停住了。
MIN_ANSWER_PROGRESS: Final = 16 * 1024
#: 拒绝之后再说这么多还不停的，不等了。
_MAX_IGNORED_BYTES: Final = 1024 * 1024


def say_farewell(transport: asyncio.Transport, answer: bytes) -> None:
    """``answer`` 是最后一句，几秒之内断开；此后这个传输不再归调用者。"""
    transport.write(answer)
    if not transport.can_write_eof():  # TLS：没有半关
        transport.close()
        return
    transport.write_eof()
    # 晚一步：调用者可能正在 data_received 里，而 uvicorn 在其后还要设一次 protocol
    loop = asyncio.get_running_loop()
    loop.call_soon(transport.set_protocol, _Leaving(transport, loop))


class _Leaving(asyncio.Protocol):
    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._ignored = 0
        self._timer = loop.call_later(LINGER_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        self._ignored += len(data)
        if self._ignored > _MAX_IGNORED_BYTES:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()


class CourteousTransport:
    """应答的一方看见的传输；``close`` 交给 ``part``：有礼貌而有期限；其余原样。"""

    def __init__(
        self,
        transport: asyncio.Transport,
        part: Callable[[], None],
        may_discard: Callable[[int, float], bool],
    ) -> None:
        self._transport = transport
        self._part = part
        self._may_discard = may_discard
        self._loop = asyncio.get_running_loop()
        self._discarded = 0
        self._timer: asyncio.TimerHandle | None = None
        self.write: Callable[[Any], None] = transport.write
        self.closed = False

    def close(self) -> None:
        self._part()

    def is_closing(self) -> bool:
        return self.closed or self._transport.is_closing()

    def leave(self, *, heard: bool) -> bool:
        """关上，但让对方先读到回答；赖着不走、不读的，到时掐断。

        ``heard``：对方没有话了，不必再听。True：半关，听着。
        """
        self.closed = True
        half = not heard and self._transport.can_write_eof()
        if half:
            self._transport.write_eof()
        else:
            self._transport.close()
        self._linger(self._transport.get_write_buffer_size())
        return half

    def _linger(self, size: int) -> None:
        self._timer = self._loop.call_later(LINGER_S, self._on_lingering, size)

    def _on_lingering(self, before: int) -> None:
        size = self._transport.get_write_buffer_size()
        if 0 < size <= before - MIN_ANSWER_PROGRESS:
            self._linger(size)
        else:
            self.abort()

    def discard(self, size: int) -> None:
        """对方又说了 ``size`` 字节，没有人要。"""
        self._discarded += size
        if self._discarded > MAX_DISCARDED:
            self.abort()
        elif not self._may_discard(size, self._loop.time()):
            self._transport.pause_reading()
        elif size > DISCARDED_AT_ONCE and not self._transport.is_closing():
            self._transport.pause_reading()  # 读了丢掉也花 CPU：一秒几 MB，不让洪水占住循环
            self._loop.call_later(DISCARD_PAUSE_S, self._listen_on)

    def _listen_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        self.release()
        self._transport.abort()

    def release(self) -> None:
        """连接没有了：还在回答的写到空处；不再回指它，断开的不必等垃圾回收。"""
        self._part = self._transport.close
        self.write = _nowhere
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _nowhere(_data: object) -> None:
    """uvicorn 只告诉最新的一个请求连接断了，管线里前面的还在写。"""
