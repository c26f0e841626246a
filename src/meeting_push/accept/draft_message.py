"""通过了检查的草稿 → 消息：得到号、时刻与有效期。"""

from __future__ import annotations

from ulid import ULID

from ..model import Draft, Message, Sender


def message_from(sender: Sender, draft: Draft, now: int, *, default_ttl_s: int) -> Message:
    ttl_s = draft.expires_in_s if draft.expires_in_s is not None else default_ttl_s
    return Message(
        message_id=str(ULID.from_timestamp(now / 1000)),
        message_type=draft.message_type,
        priority=draft.priority,
        title=draft.title,
        content=draft.content,
        sender=sender,
        timestamp=now,
        # 有效期从该送达的时刻算起：预约在明天的消息不应今晚就过期
        expires_at=max(now, draft.deliver_at or 0) + ttl_s * 1000,
        deliver_at=draft.deliver_at,
        data=draft.data,
        receipt=draft.receipt,
    )
