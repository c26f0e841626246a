"""请求的 id：客户端给的（``X-Request-ID``，像样的），没有就造一个；每个应答都带着它，日志里也有。

应用、它前面的代理、我们三处的日志就对得起来。头是别人给的，要进日志与应答：只认 64 个以内的安全
字符。
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from os import urandom
from typing import Any, Final

from ..logs import carry

HEADER: Final = "x-request-id"
NAME: Final = HEADER.encode()
_SAFE: Final = re.compile(r"[A-Za-z0-9._~:@/+=-]{1,64}")
_IN_HEAD: Final = re.compile(rb"\r\nx-request-id:[ \t]*([^\r\n]*)", re.IGNORECASE)
#: 在 ASGI 的 scope 里的名字。
KEY: Final = "meeting_push.request_id"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def chosen(given: str) -> str:
    """``given`` 像样就是它，否则新造的。"""
    given = given.strip()
    return given if _SAFE.fullmatch(given) else urandom(8).hex()


def given_in(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """ASGI 的头（名字小写）里给的；没有则空。"""
    return next((value.decode("latin-1") for name, value in headers if name == NAME), "")


def given_in_head(head: bytes) -> str:
    """还没有解析的请求头里给的；没有则空。"""
    found = _IN_HEAD.search(head)
    return "" if found is None else found.group(1).decode("latin-1")


def request_id(scope: Scope) -> str:
    """这个请求的；头一次问时定下。"""
    known: str | None = scope.get(KEY)
    if known is None:
        known = scope[KEY] = chosen(given_in(scope["headers"]))
    return known


class Identified:
    """``app`` 的每个 HTTP 应答都带着 id，办它时说的每一句日志也是；套几层都只做一遍。

    是个对象，不是函数：Starlette 的路由把函数当作收 ``Request`` 的。
    """

    __slots__ = ("_app",)

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or KEY in scope:
            await self._app(scope, receive, send)
            return
        known = request_id(scope)
        carry(request_id=known)

        async def stamped(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (NAME, known.encode())]
            await send(message)

        await self._app(scope, receive, stamped)
