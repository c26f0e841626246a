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

    @cached_property
    def wire(self) -> bytes:
        """完整的 HTTP/1.1 应答。"""
        error = {
            "code": self.code,
            "message": self.message,
            "temporary": self.temporary,
            "details": None,
        }
        body = msgspec.json.encode({"error": error})
        retry = f"retry-after: {_RETRY_AFTER_S}\r\n" if self.temporary else ""
        head = (
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"{retry}connection: close\r\n\r\n"
        )
        return head.encode() + body


BAD_REQUEST: Final = Refusal(400, "bad_request", "this is not an HTTP/1.1 request")
BODY_ON_UPGRADE: Final = Refusal(400, "bad_request", "an upgrade request has no body")
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
