"""``Message`` 与 ``messages`` 表的一行互换。"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import Row

from ..model import Message, Sender
from .tables import messages

#: 组成一个 ``Message`` 的列；``message_of`` 按名字取。
MESSAGE_COLUMNS: Final = (
    messages.c.message_id,
    messages.c.message_type,
    messages.c.priority,
    messages.c.title,
    messages.c.content,
    messages.c.sender_id,
    messages.c.sender_name,
    messages.c.created_at,
    messages.c.expires_at,
    messages.c.deliver_at,
    messages.c.data,
    messages.c.receipt,
)


def message_of(row: Row[*tuple[Any, ...]]) -> Message:
    return Message(
        message_id=row.message_id,
        message_type=row.message_type,
        priority=row.priority,
        title=row.title,
        content=row.content,
        sender=Sender(id=row.sender_id, name=row.sender_name),
        timestamp=row.created_at,
        expires_at=row.expires_at,
        deliver_at=row.deliver_at,
        data=None if row.data is None else msgspec.json.decode(row.data),
        receipt=row.receipt,
    )


def values_of(message: Message, recipient_count: int) -> dict[str, object]:
    data = message.data
    return {
        "message_id": message.message_id,
        "message_type": message.message_type,
        "priority": message.priority,
        "title": message.title,
        "content": message.content,
        "sender_id": message.sender.id,
        "sender_name": message.sender.name,
        "created_at": message.timestamp,
        "expires_at": message.expires_at,
        "deliver_at": message.deliver_at,
        "data": None if data is None else msgspec.json.encode(data).decode(),
        "receipt": message.receipt,
        "recipient_count": recipient_count,
    }
