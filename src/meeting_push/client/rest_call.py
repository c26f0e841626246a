"""一次 HTTP 调用：标准库的 http.client 放在线程里，够 SDK 用，不添依赖。

REST 回答的样子；服务器多给的字段被忽略。
"""

from __future__ import annotations

import asyncio
import http.client
from dataclasses import dataclass
from ssl import SSLContext, create_default_context

from msgspec import Struct

from ..model import Accepted, RecipientState
from ..protocol.frames import NewMessageTail
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


class Registered(Struct, frozen=True):
    user_id: int
    username: str


class Tokens(Struct, frozen=True):
    """登录或刷新的结果；``expires_in_s`` 说的是访问令牌。"""

    access_token: str
    refresh_token: str
    expires_in_s: int
    user_id: int

    def __repr__(self) -> str:
        # repr 常常进日志（SEC-2）
        return f"Tokens(user_id={self.user_id}, expires_in_s={self.expires_in_s})"


class InboxMessage(NewMessageTail, frozen=True, kw_only=True):
    """收件箱里的一条；``read_at`` 为 None 即未读，``status`` 是对本人的投递状态。"""

    read_at: int | None = None
    status: str | None = None


class InboxPage(Struct, frozen=True):
    """一页，新的在前；``next_cursor`` 为 None 即没有了。"""

    items: list[InboxMessage]
    unread_count: int
    next_cursor: str | None = None


class DeliveryReport(Struct, frozen=True):
    """一条消息的投递状态：各状态人数与一页收件人。

    广播的总人数不得而知：``total``、``pending`` 为 None，``recipients`` 为空。
    """

    message_id: str
    total: int | None
    pending: int | None
    delivered: int
    failed: int
    expired: int
    recipients: list[RecipientState]
    next_cursor: str | None = None


class DeliveryStatistics(Struct, frozen=True):
    """一个用户在窗口内的投递统计。"""

    sent: int
    delivered: int
    failed: int
    expired: int
    pending: int


class BatchResults(Struct, frozen=True):
    results: list[Accepted]


class Unread(Struct, frozen=True):
    unread_count: int


class ErrorDetail(Struct, frozen=True):
    code: str
    message: str
    temporary: bool = False
    details: object = None


class ErrorBody(Struct, frozen=True):
    error: ErrorDetail
