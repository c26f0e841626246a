"""门口自己的回答与告别：还没有到任何路由就拒绝的，也是 contract 的错误体，答完就关。

直接 ``close`` 的话，内核里还有没读的就发 RST，对方多半读不到回答：所以半关，对方再说的都丢掉，
几秒之内断开。
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Any, Final

import msgspec

from .request_ids import HEADER, chosen

_RETRY_AFTER_S: Final = 1


def error_body(
    code: str, message: str, *, temporary: bool = False, details: object = None
) -> dict[str, Any]:
    """每个错误应答的样子。"""
    error = {"code": code, "message": message, "temporary": temporary, "details": details}
    return {"error": error}


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
        return msgspec.json.encode(error_body(self.code, self.message, temporary=self.temporary))

    @cached_property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """应答的头：正文的、自己的、临时的还有何时再来；请求的 id 各由写它的人添。"""
        retry = (("retry-after", str(_RETRY_AFTER_S)),) if self.temporary else ()
        kind, size = ("content-type", "application/json"), ("content-length", str(len(self.body)))
        return (kind, size, *self.headers, *retry)

    @cached_property
    def _head(self) -> str:
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.fields)
        status = f"{self.status} {HTTPStatus(self.status).phrase}"
        return f"HTTP/1.1 {status}\r\n{lines}connection: close\r\n"

    def answer(self, given: str = "", more: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
        """完整的 HTTP/1.1 应答。

        :param given: 请求自己给的 id；没有、还不知道则空
        :param more: 再添的头
        """
        lines = b"".join([b"%b: %b\r\n" % each for each in more])
        head = f"{self._head}{HEADER}: {chosen(given)}\r\n".encode()
        return b"".join((head, lines, b"\r\n", self.body))


BAD_REQUEST: Final = Refusal(400, "bad_request", "this is not an HTTP/1.1 request")
NOT_FOUND: Final = Refusal(404, "not_found", "there is no WebSocket here")
NO_STREAM: Final = Refusal(404, "not_found", "there is no event stream here")
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


class RefusedError(Exception):
    """从解析器的回调里出来：余下的不必再解析。"""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal


class EnoughError(Exception):
    """同上：前面的答完就关，余下的没有人要。"""


#: 每个进程在门口都可能说的；指标从 0 开始就有它们。
REFUSALS: Final = (
    *(BAD_REQUEST, NOT_FOUND, FOREIGN_ORIGIN, TOO_SLOW),
    *(HEAD_TOO_LARGE, PADDED_BODY, TOO_MANY_HERE, CROWDED),
)


#: 答完之后还听多久，好让回答先到。
LINGER_S: Final = 2.0
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
