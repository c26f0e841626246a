"""撤回一条还没到时的消息。"""

from __future__ import annotations

from typing import Final

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ..model import DeliveryStatus
from .tables import message_recipients, messages

CANCELLED: Final = "cancelled"
#: 收件人那里“永不到时”：收件箱与未读数本就按 ``deliver_at`` 取舍，撤回的从此看不见。
NEVER: Final = 2**62

_m: Final = messages.c
_r: Final = message_recipients.c


async def cancel(connection: AsyncConnection, message_id: str, now: int, due_after: int) -> bool:
    """在 ``connection`` 的事务里撤回；False = 不是预约的，或不晚于 ``due_after`` 就到时了。

    收件人变成 failed、原因 cancelled；消息当即过期，此后哪一站都不会再投递它。重复撤回无害。
    """
    row = (
        await connection.execute(
            select(_m.deliver_at).where(_m.message_id == message_id).with_for_update()
        )
    ).one_or_none()
    if row is None or row.deliver_at is None or row.deliver_at <= due_after:
        return False
    await connection.execute(
        update(messages)
        .where(_m.message_id == message_id, _m.expires_at > now)
        .values(expires_at=now, enqueued_at=now)
    )
    await connection.execute(
        update(message_recipients)
        .where(_r.message_id == message_id, _r.status == DeliveryStatus.PENDING)
        .values(
            status=DeliveryStatus.FAILED,
            failed_at=now,
            failure_reason=CANCELLED,
            deliver_at=NEVER,
        )
    )
    return True
