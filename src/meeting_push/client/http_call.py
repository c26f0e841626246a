"""一次 HTTP 调用：标准库的 http.client 放在线程里，够 SDK 用，不添依赖。"""

from __future__ import annotations

import asyncio
import http.client
from dataclasses import dataclass
from ssl import SSLContext, create_default_context

from .endpoint import Endpoint
from .errors import ServerUnreachableError


@dataclass(frozen=True, slots=True)
class HttpRequest:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """``retry_after_s``：服务器没说，或说的是日期，就是 None。"""

    status: int
    body: bytes
    retry_after_s: float | None


class HttpCaller:
    """每次调用一条连接：SDK 的 REST 调用稀疏，不值得养连接池。不跟随重定向。"""

    def __init__(self, endpoint: Endpoint, timeout_s: float, ssl: SSLContext | None) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._ssl = (ssl or create_default_context()) if endpoint.secure else None

    async def call(self, request: HttpRequest) -> HttpAnswer:
        """取消时立即返回，但线程会跑到超时，请求可能已被执行。

        :raises ServerUnreachableError: 没有得到完整的回答；请求可能已被执行
        """
        return await asyncio.to_thread(self._call, request)

    def _call(self, request: HttpRequest) -> HttpAnswer:
        connection = self._connection()
        try:
            connection.request(
                request.method, self._endpoint.path + request.path, request.body, request.headers
            )
            response = connection.getresponse()
            retry_after = response.getheader("Retry-After", "")
            return HttpAnswer(response.status, response.read(), _seconds(retry_after))
        except (OSError, http.client.HTTPException) as error:
            raise ServerUnreachableError(f"no answer: {type(error).__name__}") from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._endpoint.host, self._endpoint.port
        if self._ssl is None:
            return http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=self._ssl)


def _seconds(retry_after: str) -> float | None:
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
