"""CORS：名单（``MEETING_PUSH_ALLOWED_ORIGINS``，与升级前查的同一份）里的来源，页面读得到我们的回答。

令牌由页面放进 ``Authorization``，从不凭 cookie：所以从不说 ``Allow-Credentials``，也从不说 ``*``，
只回显那一个来源。不在名单里的没有一个 CORS 头，浏览器自己拦下。名单空着就什么也不做。
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

#: 浏览器从不说缺省的端口。
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_VARY: Final = (b"vary", b"Origin")
#: 页面的脚本读得到的应答头。
_EXPOSED: Final = b"Retry-After, X-Request-ID, ETag, WWW-Authenticate"
#: 记得多久（秒）；Chromium 至多 7200。
_MAX_AGE_S: Final = b"7200"
_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
    (
        b"access-control-allow-headers",
        b"Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-ID",
    ),
    (b"access-control-max-age", _MAX_AGE_S),
    (b"cache-control", b"no-store"),
)
#: 在 ASGI 的 scope 里：外面一层已经管了。
_KEY: Final = "meeting_push.cors"

Header = tuple[bytes, bytes]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def normal_origin(origin: str) -> str:
    return origin.strip().rstrip("/").lower()


def as_browsers_say(origin: str) -> str:
    normal = normal_origin(origin)
    return normal.removesuffix(_DEFAULT_PORTS.get(normal.partition(":")[0], "/"))


class Cors:
    """名单；头的名字为小写。"""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._origins = frozenset(map(as_browsers_say, origins))

    def __bool__(self) -> bool:
        return bool(self._origins)

    def headers(self, asked: Iterable[Header]) -> tuple[Header, ...]:
        """请求的头 → 应答要添的。"""
        if not self._origins:
            return ()
        origin = self._origin(asked)
        if origin is None:
            return (_VARY,)
        granted = (b"access-control-allow-origin", origin)
        return (_VARY, granted, (b"access-control-expose-headers", _EXPOSED))

    def preflight(self, scope: Scope) -> tuple[Header, ...] | None:
        """预检的回答；不是预检、来源不在名单里的 None：照常由后面的办。"""
        if scope["method"] != "OPTIONS" or not self._origins:
            return None
        asked: list[Header] = scope["headers"]
        origin = self._origin(asked)
        if origin is None or not any(n == b"access-control-request-method" for n, _ in asked):
            return None
        return ((b"access-control-allow-origin", origin), _VARY, *_PREFLIGHT)

    def _origin(self, asked: Iterable[Header]) -> bytes | None:
        """名单里的，原样；没有、不在、不止一个的 None。"""
        given = [value for name, value in asked if name == b"origin"]
        if len(given) != 1 or normal_origin(given[0].decode("latin-1")) not in self._origins:
            return None
        return given[0]


class CrossOrigin:
    """``app`` 的每个 HTTP 应答（错误也是）都带着；预检当场回答，不到认证、限速。套几层都只做一遍。

    是个对象，道理同 ``Identified``。
    """

    __slots__ = ("_app", "_cors")

    def __init__(self, app: App, cors: Cors) -> None:
        self._app = app
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _KEY in scope or not self._cors:
            await self._app(scope, receive, send)
            return
        scope[_KEY] = True
        if (answer := self._cors.preflight(scope)) is not None:
            await send({"type": "http.response.start", "status": 204, "headers": [*answer]})
            await send({"type": "http.response.body", "body": b""})
            return
        granted = self._cors.headers(scope["headers"])

        async def told(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *granted]
            await send(message)

        await self._app(scope, receive, told)
