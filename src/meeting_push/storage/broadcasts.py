"""广播：它的 outbox，与确认过它的人。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import CursorResult, func, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ..model import Message, Outgoing
from .database import Repository
from .event_outbox import ACCEPTED, DELIVERED, accepted_item
from .id_list import among
from .messages import values_of
from .rows import MESSAGE_COLUMNS, readable
from .tables import broadcast_receipts, broadcasts, messages

_b: Final = broadcasts.c
#: (message_id, user_id, delivered_at)
ReceiptRow = tuple[str, int, int]

_SQLITE_RECEIPTS: Final = (
    "INSERT INTO mp_broadcast_receipts (message_id, user_id, delivered_at)"
    " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')"
    " FROM json_each(?) WHERE true ON CONFLICT (message_id, user_id) DO NOTHING"
)
_PG_RECEIPTS: Final = text(
    "INSERT INTO mp_broadcast_receipts (message_id, user_id, delivered_at)"
    " SELECT m, u, d FROM unnest("
    "CAST(:message_ids AS varchar[]), CAST(:user_ids AS bigint[]), CAST(:delivered AS bigint[])"
    ") AS v (m, u, d) ON CONFLICT (message_id, user_id) DO NOTHING"
)
#: 有人要听的：哪些是此刻才有的。
_FRESH: Final = " RETURNING message_id, user_id, delivered_at"
_PG_RECEIPTS_TOLD: Final = text(_PG_RECEIPTS.text + _FRESH)


class BroadcastRepository(Repository):
    async def insert(self, connection: AsyncConnection, message: Message) -> None:
        """写下一条广播；提交之后它就已接受（DLV-1）。"""
        values = values_of(message, 0) | {"enqueued_at": message.timestamp}
        await connection.execute(insert(messages), values)
        await connection.execute(insert(broadcasts), {"message_id": message.message_id})
        events = self._database.events
        if ACCEPTED in events.wanted:
            told = [accepted_item(Outgoing(message, ()))]
            await events.add(connection, ACCEPTED, told, message.timestamp)

    async def outbox(self, now: int, limit: int) -> list[Message]:
        """到时而还没进日志的，最早的在前。几个进程会读到同一条：记日志按 id 幂等。

        读不懂的行在这里就移出，一整页都读不懂就看下一页。
        """
        due = messages.c.deliver_at
        statement = (
            select(*MESSAGE_COLUMNS)
            .join(broadcasts, _b.message_id == messages.c.message_id)
            .where(_b.logged_at.is_(None), or_(due.is_(None), due <= now))
            .order_by(messages.c.message_id)
            .limit(limit)
        )
        while True:
            async with self._database.connect() as connection:
                found, unreadable = readable(await connection.execute(statement))
            await self.mark_logged(unreadable, now)
            if found or not unreadable:
                return found

    async def mark_logged(self, message_ids: Sequence[str], now: int) -> None:
        """移出 outbox。幂等。"""
        if not message_ids:
            return
        statement = (
            update(broadcasts)
            .where(among(self._database, _b.message_id, message_ids), _b.logged_at.is_(None))
            .values(logged_at=now)
        )
        await self._database.change(statement)

    async def logged(self, since: int, now: int) -> list[str]:
        """``since`` 之后进了日志、还没过期的，最早的在前。"""
        statement = (
            select(_b.message_id)
            .join(messages, messages.c.message_id == _b.message_id)
            .where(_b.logged_at >= since, messages.c.expires_at > now)
            .order_by(_b.message_id)
        )
        return [row[0] for row in await self._database.rows(statement)]

    async def reopen(self, message_ids: Sequence[str]) -> int:
        """放回 outbox，返回几条。幂等。"""
        statement = (
            update(broadcasts)
            .where(among(self._database, _b.message_id, message_ids), _b.logged_at.is_not(None))
            .values(logged_at=None)
        )
        return await self._database.change(statement)

    async def record_delivered(self, rows: Sequence[ReceiptRow]) -> None:
        """各人第一次确认的时刻；一个事务，幂等。"""
        if not rows:
            return
        # 各节点都按同一次序插入，免得互相死锁
        ordered = sorted(rows)
        async with self._database.transaction() as connection:
            told = DELIVERED in self._database.events.wanted
            written = await self._insert_receipts(connection, ordered, told=told)
            if told:
                fresh = [(*row[:2], None, row[2]) for row in map(tuple, written)]
                await self._database.events.add(connection, DELIVERED, fresh, ordered[-1][2])
        self._database.events.wake()

    async def _insert_receipts(
        self, connection: AsyncConnection, rows: Sequence[ReceiptRow], *, told: bool
    ) -> CursorResult[Any]:
        """``told``：结果是此刻才有的各行。"""
        if self._database.is_sqlite:
            listed = msgspec.json.encode(rows).decode()
            statement = _SQLITE_RECEIPTS + (_FRESH if told else "")
            return await connection.exec_driver_sql(statement, (listed,))
        message_ids, user_ids, delivered = zip(*rows, strict=True)
        given = {"message_ids": message_ids, "user_ids": user_ids, "delivered": delivered}
        return await connection.execute(_PG_RECEIPTS_TOLD if told else _PG_RECEIPTS, given)

    async def receivers(self, message_id: str, after: int, limit: int) -> list[int]:
        """确认过它的人，按 user_id 的一页，从 ``after`` 之后开始。"""
        user_id = broadcast_receipts.c.user_id
        statement = (
            select(user_id)
            .where(broadcast_receipts.c.message_id == message_id, user_id > after)
            .order_by(user_id)
            .limit(limit)
        )
        return [row[0] for row in await self._database.rows(statement)]

    async def delivered_count(self, message_id: str) -> int | None:
        """多少人确认过；不是广播则 None。"""
        receipts = (
            select(func.count())
            .select_from(broadcast_receipts)
            .where(broadcast_receipts.c.message_id == message_id)
            .scalar_subquery()
        )
        statement = select(receipts).select_from(broadcasts).where(_b.message_id == message_id)
        count: int | None = await self._database.scalar(statement)
        return count
