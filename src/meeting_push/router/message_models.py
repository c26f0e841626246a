"""消息的 REST 里来往的 JSON。"""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta, Raw, Struct, field
from pydantic import BaseModel

from ..accept.drafts import DraftRules
from ..model import (
    MAX_PRIORITY,
    MAX_SAFE_INTEGER,
    MIN_PRIORITY,
    Accepted,
    Draft,
    Message,
    MessageType,
    RecipientState,
    Sender,
)
from ..protocol.frames import UserId
from ..protocol.json_text import MAX_DEPTH
from ..storage.rows import InboxItem
from .json_body import Schema

MESSAGE_ID_PATTERN: Final = "[0-9A-Z]{26}"
NULL: Final = Raw(b"null")

MessageId = Annotated[str, Meta(pattern=f"^{MESSAGE_ID_PATTERN}$", min_length=26, max_length=26)]


def _null() -> Raw:
    return NULL


class _TextIn(Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """消息里与收件人无关的字段；由设置定的上限由服务检查（413/422）。"""

    title: Annotated[str, Meta(min_length=1)]
    content: str
    message_type: MessageType = "message"
    priority: Annotated[
        int, Meta(ge=MIN_PRIORITY, le=MAX_PRIORITY, description="不低于 5 为紧急")
    ] = 0
    expires_in_s: Annotated[int, Meta(ge=1)] | None = None
    deliver_at: (
        Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER, description="预约送达的时刻，毫秒")] | None
    ) = None
    data: Annotated[
        Raw,
        Meta(
            description=f"应用自己的 JSON，原样送达；至多 {MAX_DEPTH} 层",
            extra_json_schema={"type": ["object", "null"]},
        ),
    ] = field(default_factory=_null)

    def app_data(self) -> Raw | None:
        return None if self.data == NULL else self.data


class DraftIn(_TextIn, gc=False):
    """一条要发送的消息。"""

    recipient_ids: Annotated[list[UserId], Meta(min_length=1, description="收件人；重复的只算一次")]
    receipt: Annotated[bool, Meta(description="送达时给发送者一帧 receipt")] = False

    def draft(self) -> Draft:
        return Draft(
            recipient_ids=tuple(self.recipient_ids),
            title=self.title,
            content=self.content,
            message_type=self.message_type,
            priority=self.priority,
            expires_in_s=self.expires_in_s,
            deliver_at=self.deliver_at,
            data=self.app_data(),
            receipt=self.receipt,
        )


class BroadcastIn(_TextIn, gc=False):
    """一条发给所有人的消息；没有回执。"""

    def draft(self) -> Draft:
        return Draft(
            recipient_ids=(),
            title=self.title,
            content=self.content,
            message_type=self.message_type,
            priority=self.priority,
            expires_in_s=self.expires_in_s,
            deliver_at=self.deliver_at,
            data=self.app_data(),
        )


def draft_limits(rules: DraftRules) -> dict[str, Schema]:
    """``rules`` 里的上限，写进 OpenAPI；字节数是字符数的上界。"""
    return {
        "recipient_ids": {"maxItems": rules.max_recipients},
        "title": {"maxLength": rules.max_title_chars},
        "content": {"maxLength": rules.max_content_bytes},
        "expires_in_s": {"minimum": 1, "maximum": rules.max_ttl_s, "type": ["integer", "null"]},
    }


class BroadcastOut(BaseModel):
    message_id: str
    created_at: int


class BatchIn(Struct, forbid_unknown_fields=True):
    messages: Annotated[list[DraftIn], Meta(min_length=1)]


class AcceptedOut(Struct, gc=False):
    message_id: str
    recipient_count: int
    created_at: int

    @classmethod
    def of(cls, accepted: Accepted) -> AcceptedOut:
        return cls(accepted.message_id, accepted.recipient_count, accepted.created_at)


class BatchOut(Struct):
    results: list[AcceptedOut]


class MessageOut(Struct, kw_only=True):
    """一条消息；``read_at``、``status`` 只有收件人自己看得到。"""

    message_id: str
    message_type: MessageType
    priority: int
    title: str
    content: str
    sender: Sender
    timestamp: int
    expires_at: int
    data: Annotated[Any, Meta(extra_json_schema={"type": ["object", "null"]})]
    read_at: int | None = None
    status: str | None = None

    @classmethod
    def of(cls, item: InboxItem | Message) -> MessageOut:
        message = item.message if isinstance(item, InboxItem) else item
        own = item if isinstance(item, InboxItem) else None
        return cls(
            message_id=message.message_id,
            message_type=message.message_type,
            priority=message.priority,
            title=message.title,
            content=message.content,
            sender=message.sender,
            timestamp=message.timestamp,
            expires_at=message.expires_at,
            data=message.data,
            read_at=own.read_at if own else None,
            status=own.status if own else None,
        )


class InboxOut(Struct, kw_only=True):
    items: list[MessageOut]
    next_cursor: str | None
    unread_count: int


class ReadIn(Struct, forbid_unknown_fields=True):
    """二选一。"""

    message_ids: Annotated[list[MessageId], Meta(min_length=1, max_length=1_000)] | None = None
    upto_message_id: MessageId | None = None

    def __post_init__(self) -> None:
        if (self.message_ids is None) == (self.upto_message_id is None):
            raise ValueError("give either message_ids or upto_message_id")


class UnreadOut(BaseModel):
    unread_count: int


class RecipientOut(BaseModel):
    user_id: int
    status: str
    attempts: int
    sent_at: int | None
    delivered_at: int | None
    failed_at: int | None
    failure_reason: str | None

    @classmethod
    def of(cls, state: RecipientState) -> RecipientOut:
        return cls(
            user_id=state.user_id,
            status=state.status,
            attempts=state.attempts,
            sent_at=state.sent_at,
            delivered_at=state.delivered_at,
            failed_at=state.failed_at,
            failure_reason=state.failure_reason,
        )


class DeliveryOut(BaseModel):
    """广播的总人数不得而知：``total``、``pending`` 为 null，``recipients`` 为空。"""

    message_id: str
    total: int | None
    pending: int | None
    delivered: int
    failed: int
    expired: int
    recipients: list[RecipientOut]
    next_cursor: str | None

    @classmethod
    def of_broadcast(cls, message_id: str, delivered: int) -> DeliveryOut:
        return cls(
            message_id=message_id,
            total=None,
            pending=None,
            delivered=delivered,
            failed=0,
            expired=0,
            recipients=[],
            next_cursor=None,
        )
