"""直接读 SQL：不经过产品的查询，免得被查的与查的一起错。只用驱动自己的写法，两种库各一份。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from meeting_push.storage.database import Database

from .final_state import MessageRow, RecipientRow

#: 广播没有收件人，另算（``rules/broadcasts.py``）。
_MESSAGES = (
    "SELECT message_id, sender_id, title, priority, enqueued_at IS NULL FROM messages"
    " WHERE message_id NOT IN (SELECT message_id FROM broadcasts)"
)
_RECIPIENTS = "SELECT message_id, user_id, status, delivered_at FROM message_recipients"
_OUTBOX = (
    "SELECT count(*) FROM messages WHERE enqueued_at IS NULL"
    " AND message_id NOT IN (SELECT message_id FROM broadcasts)"
)
_PENDING_SQLITE = (
    "SELECT message_id FROM message_recipients WHERE user_id = ? AND status = 'pending'"
    " AND message_id IN (SELECT value FROM json_each(?))"
)
_PENDING_PG = (
    "SELECT message_id FROM message_recipients WHERE user_id = $1 AND status = 'pending'"
    " AND message_id IN (SELECT jsonb_array_elements_text($2::jsonb))"
)
_PENDING_COUNT = "SELECT count(*) FROM message_recipients WHERE status = 'pending'"


class Sql:
    """库归这一次运行独用。"""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pending(self, user_id: int, message_ids: Sequence[str]) -> set[str]:
        """``message_ids`` 里对这个用户仍是 pending 的。"""
        statement = _PENDING_SQLITE if self._database.is_sqlite else _PENDING_PG
        ids = msgspec.json.encode(message_ids).decode()
        async with self._database.connect() as connection:
            rows = await connection.exec_driver_sql(statement, (user_id, ids))
            return {row[0] for row in rows}

    async def outbox_and_pending(self) -> tuple[int, int]:
        async with self._database.connect() as connection:
            outbox = (await connection.exec_driver_sql(_OUTBOX)).scalar_one()
            pending = (await connection.exec_driver_sql(_PENDING_COUNT)).scalar_one()
            return int(outbox), int(pending)

    async def messages(self) -> tuple[MessageRow, ...]:
        async with self._database.connect() as connection:
            rows: Sequence[Any] = (await connection.exec_driver_sql(_MESSAGES)).all()
        return tuple(
            MessageRow(message_id, sender_id, title, priority, bool(outbox))
            for message_id, sender_id, title, priority, outbox in rows
        )

    async def recipients(self) -> tuple[RecipientRow, ...]:
        async with self._database.connect() as connection:
            rows: Sequence[Any] = (await connection.exec_driver_sql(_RECIPIENTS)).all()
        return tuple(
            RecipientRow(message_id, user_id, status, delivered_at)
            for message_id, user_id, status, delivered_at in rows
        )
