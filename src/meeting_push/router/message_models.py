"""消息的 REST 里来往的 JSON。"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator

from ..model import Accepted, Draft, Message, MessageType, RecipientState
from ..storage.rows import InboxItem

MessageIdField = Annotated[StrictStr, Field(min_length=26, max_length=26, pattern="^[0-9A-Z]{26}$")]


class DraftIn(BaseModel):
    """一条要发送的消息；上下限由服务检查（413/422）。"""

    model_config = ConfigDict(extra="forbid")

    recipient_ids: list[StrictInt] = Field(description="收件人；重复的只算一次")
    title: StrictStr
    content: StrictStr
    message_type: MessageType = "message"
    priority: StrictInt = Field(0, description="0…9，不低于 5 为紧急")
    expires_in_s: StrictInt | None = None
    deliver_at: StrictInt | None = Field(None, description="预约送达的时刻，毫秒")
    data: dict[str, Any] | None = Field(None, description="应用自己的 JSON，原样送达")
    receipt: StrictBool = Field(False, description="送达时给发送者一帧 receipt")

    def draft(self) -> Draft:
        fields = self.model_dump(exclude={"recipient_ids"})
        return Draft(recipient_ids=tuple(self.recipient_ids), **fields)


class BroadcastIn(BaseModel):
    """一条发给所有人的消息；没有回执。"""

    model_config = ConfigDict(extra="forbid")

    title: StrictStr
    content: StrictStr
    message_type: MessageType = "message"
    priority: StrictInt = Field(0, description="0…9，不低于 5 为紧急")
    expires_in_s: StrictInt | None = None
    deliver_at: StrictInt | None = Field(None, description="预约送达的时刻，毫秒")
    data: dict[str, Any] | None = Field(None, description="应用自己的 JSON，原样送达")

    def draft(self) -> Draft:
        return Draft(recipient_ids=(), **self.model_dump())


class BroadcastOut(BaseModel):
    message_id: str
    created_at: int


class BatchIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    messages: list[DraftIn] = Field(min_length=1)


class AcceptedOut(BaseModel):
    message_id: str
    recipient_count: int
    created_at: int

    @classmethod
    def of(cls, accepted: Accepted) -> AcceptedOut:
        return cls(
            message_id=accepted.message_id,
            recipient_count=accepted.recipient_count,
            created_at=accepted.created_at,
        )


class BatchOut(BaseModel):
    results: list[AcceptedOut]


class SenderOut(BaseModel):
    id: int
    name: str


class MessageOut(BaseModel):
    """一条消息；``read_at``、``status`` 只有收件人自己看得到。"""

    message_id: str
    message_type: MessageType
    priority: int
    title: str
    content: str
    sender: SenderOut
    timestamp: int
    expires_at: int
    data: dict[str, Any] | None
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
            sender=SenderOut(id=message.sender.id, name=message.sender.name),
            timestamp=message.timestamp,
            expires_at=message.expires_at,
            data=message.data,
            read_at=own.read_at if own else None,
            status=own.status if own else None,
        )


class InboxOut(BaseModel):
    items: list[MessageOut]
    next_cursor: str | None
    unread_count: int


class ReadIn(BaseModel):
    """二选一。"""

    model_config = ConfigDict(extra="forbid")

    message_ids: list[MessageIdField] | None = Field(None, min_length=1, max_length=1_000)
    upto_message_id: MessageIdField | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> ReadIn:
        if (self.message_ids is None) == (self.upto_message_id is None):
            raise ValueError("give either message_ids or upto_message_id")
        return self


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
