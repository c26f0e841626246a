"""SDK 的错误；都在 ``MeetingPushError`` 之下，文字里绝不含令牌（SEC-2）。"""

from __future__ import annotations

from ..errors import MeetingPushError


class PushRefusedError(MeetingPushError):
    """服务器不许再连：关闭码 4500–4999，或令牌已过期（4004）而手里没有新的。

    ``close_code`` 与 ``reason`` 原样来自服务器；``code`` 取 reason，空则 ``refused``。
    """

    def __init__(self, close_code: int, reason: str) -> None:
        super().__init__(f"the server refused the connection: {close_code} {reason}".rstrip())
        self.close_code = close_code
        self.reason = reason
        self.code = reason or "refused"


class HandshakeRejectedError(MeetingPushError):
    """从未连上过，且升级请求得到 HTTP 错误（如 403：Origin 不许；404：地址不对）。"""

    code = "handshake_rejected"

    def __init__(self, status: int) -> None:
        super().__init__(f"the server answered the upgrade with HTTP {status}")
        self.status = status


class NotConnectedError(MeetingPushError):
    """此刻没有连接，这个动作又不能留到以后。"""

    code = "not_connected"
    temporary = True


class TokenUnreadableError(MeetingPushError):
    """没有给 ``user_id``，又无法从令牌里读出。"""

    code = "token_unreadable"


class ServerUnreachableError(MeetingPushError):
    """REST 调用没有得到回答：连不上、超时或中途断开；请求可能已被执行。"""

    code = "server_unreachable"
    temporary = True


class ApiError(MeetingPushError):
    """REST 的错误体；``code``、``temporary``、``details`` 由服务器给出。

    ``retry_after_s`` 为 None 表示服务器没有说。
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        temporary: bool,
        details: object = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, details=details)
        self.status = status
        self.code = code
        self.temporary = temporary
        self.retry_after_s = retry_after_s
