"""仓库交出的名词（``model.py`` 里没有的那些）。"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..model import DeliveryStatus, Meeting, Message, RecipientState


@dataclass(frozen=True, slots=True)
class User:
    """一个账号；``disabled_at`` 非空则不能登录。"""

    id: int
    username: str
    password_hash: str = field(repr=False)
    role: str
    created_at: int
    disabled_at: int | None


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """一枚刷新令牌的记录：只有散列，没有令牌。"""

    token_hash: bytes = field(repr=False)
    family_id: str
    user_id: int
    expires_at: int
    used_at: int | None = None
    revoked_at: int | None = None


@dataclass(frozen=True, slots=True)
class InboxItem:
    """收件箱的一行：消息，和它对这个收件人的状态。"""

    message: Message
    status: DeliveryStatus
    read_at: int | None


@dataclass(frozen=True, slots=True)
class InboxPage:
    """新的在前；``next_cursor`` 为 None 即到底。"""

    items: list[InboxItem]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class RecipientPage:
    """按 ``user_id`` 升序；``next_cursor`` 为 None 即到底。"""

    items: list[RecipientState]
    next_cursor: int | None


@dataclass(frozen=True, slots=True)
class DeliveryCounts:
    """一条消息的收件人按状态的数目。"""

    pending: int = 0
    delivered: int = 0
    failed: int = 0
    expired: int = 0

    @property
    def total(self) -> int:
        return self.pending + self.delivered + self.failed + self.expired


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """某个 Idempotency-Key 第一次得到的回答；``response`` 是 JSON 原文。"""

    request_hash: bytes
    response: str


@dataclass(frozen=True, slots=True)
class MeetingPage:
    """新的在前；``next_cursor`` 为 None 即到底。"""

    items: list[Meeting]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """一组收件人：第几个时段、什么类型、什么状态（失败则为何）。

    ``count`` 人，其中 ``retried`` 人重试过；``to_ack_ms`` 是从推到确认的毫秒数之和。
    """

    bucket: int
    message_type: str
    status: DeliveryStatus
    reason: str | None
    count: int
    retried: int
    to_ack_ms: int


@dataclass(frozen=True, slots=True)
class FailedDelivery:
    """失败清单的一行。"""

    message_id: str
    user_id: int
    attempts: int
    failed_at: int
    reason: str
    sender_id: int
    message_type: str
    priority: int
    title: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class FailurePage:
    """新的在前；``next_cursor`` 是 (failed_at, message_id, user_id)，None 即到底。"""

    items: list[FailedDelivery]
    next_cursor: tuple[int, str, int] | None
