"""很久以前接受的消息：直接写进记录，各收件人的去向由测试定。"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, insert, select, update
from ulid import ULID

from meeting_push.model import Message, Outgoing, Sender
from meeting_push.storage.broadcasts import BroadcastRepository
from meeting_push.storage.database import Database
from meeting_push.storage.messages import MessageRepository
from meeting_push.storage.tables import (
    broadcast_receipts,
    broadcasts,
    message_recipients,
    messages,
)

NOW = 1_900_000_000_000
DAY_MS = 86_400_000


class OldMessages:
    """``now`` 之前几天接受的。"""

    def __init__(self, database: Database, now: int = NOW) -> None:
        self.database = database
        self.now = now

    async def direct(
        self, days_ago: float, statuses: Mapping[int, str] | None = None, **columns: Any
    ) -> str:
        """``statuses``：收件人 → 去向，缺省 7 号已送达；入了队。"""
        ends = {7: "delivered"} if statuses is None else statuses
        message = self._message(days_ago)
        async with self.database.transaction() as connection:
            record = MessageRepository(self.database)
            await record.insert(connection, [Outgoing(message, tuple(ends))])
            await connection.execute(
                update(messages)
                .where(messages.c.message_id == message.message_id)
                .values({"enqueued_at": message.timestamp} | columns)
            )
            of = message_recipients.c
            for status in set(ends.values()):
                users = [user for user, ended in ends.items() if ended == status]
                failed = {"failed_at": message.timestamp} if status == "failed" else {}
                await connection.execute(
                    update(message_recipients)
                    .where(of.message_id == message.message_id, of.user_id.in_(users))
                    .values(status=status, **failed)
                )
        return message.message_id

    async def broadcast(self, days_ago: float, receipts: int = 2, **columns: Any) -> str:
        """进了日志的广播，有 ``receipts`` 个人确认过。"""
        message, logged_at = self._message(days_ago), columns.pop("logged_at", 1)
        async with self.database.transaction() as connection:
            await BroadcastRepository(self.database).insert(connection, message)
            this = messages.c.message_id == message.message_id
            if columns:
                await connection.execute(update(messages).where(this).values(columns))
            await connection.execute(
                update(broadcasts)
                .where(broadcasts.c.message_id == message.message_id)
                .values(logged_at=logged_at)
            )
            for user_id in range(1, receipts + 1):
                row = {"message_id": message.message_id, "user_id": user_id, "delivered_at": 1}
                await connection.execute(insert(broadcast_receipts), row)
        return message.message_id

    async def left(self) -> list[str]:
        rows = await self.database.rows(
            select(messages.c.message_id).order_by(messages.c.message_id)
        )
        return [row.message_id for row in rows]

    async def rows(self) -> dict[str, int]:
        """各表还有几行。"""
        tables = (messages, message_recipients, broadcasts, broadcast_receipts)
        return {
            table.name.removeprefix("mp_"): await self.database.scalar(
                select(func.count()).select_from(table)
            )
            for table in tables
        }

    def _message(self, days_ago: float) -> Message:
        at = self.now - int(days_ago * DAY_MS)
        return Message(
            message_id=str(ULID.from_timestamp(at / 1000)),
            message_type="message",
            priority=0,
            title="旧的",
            content="c" * 50,
            sender=Sender(1, "ann"),
            timestamp=at,
            expires_at=at + 7 * DAY_MS,
        )
