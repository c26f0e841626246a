"""一条要写进记录的消息；测试只说它在乎的字段。"""

from __future__ import annotations

from typing import Any, Final

from ulid import ULID

from meeting_push.model import Message, Sender

NOW: Final = 1_800_000_000_000


def stored_message(at: int = NOW, **changes: Any) -> Message:
    """``at`` 毫秒时接受、一秒后过期；id 是那一刻的。"""
    fields: dict[str, Any] = {
        "message_id": str(ULID.from_timestamp(at / 1000)),
        "message_type": "message",
        "priority": 0,
        "title": "标题",
        "content": "内容",
        "sender": Sender(id=7, name="alice"),
        "timestamp": at,
        "expires_at": at + 1000,
    }
    return Message(**fields | changes)
