"""REST 回答的样子；服务器多给的字段被忽略。"""

from __future__ import annotations

from msgspec import Struct

from ..model import Accepted, RecipientState
from ..protocol.frames import NewMessageTail


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
