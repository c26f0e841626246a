"""请求体的上限：在读进内存之前就拒绝。"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import PayloadTooLargeError
from .errors import error_response


class BodyLimit:
    """声明的 ``Content-Length`` 过大立即 413；没有声明（分块）的边读边数。"""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _declared_length(scope) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                # 对应用装作客户端走了：它不再读，回答由下面的 answered 换成 413
                return {"type": "http.disconnect"}
            return message

        async def answered(message: Message) -> None:
            if seen <= self._max_bytes:
                await send(message)

        await self._app(scope, counted, answered)
        if seen > self._max_bytes:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = PayloadTooLargeError(f"the body is larger than {self._max_bytes} bytes")
        await error_response(error)(scope, receive, send)


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
