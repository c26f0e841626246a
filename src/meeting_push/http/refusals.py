"""门口自己的回答：还没有到任何路由就拒绝的，也是 contract 的错误体，答完就关。"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Final

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
