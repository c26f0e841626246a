"""撤回：消息的标题、正文、``data`` 从此没有了，没有确认过的收件人是 withdrawn。"""

from __future__ import annotations

from typing import Final

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ..model import DeliveryStatus
from .database import Repository
from .event_outbox import WITHDRAWN
from .tables import message_recipients, messages

_m: Final = messages.c
_r: Final = message_recipients.c


class WithdrawalRepository(Repository):
    async def recipients(self, message_id: str) -> list[int]:
        """全部收件人；发给所有人的没有。"""
        statement = select(_r.user_id).where(_r.message_id == message_id).order_by(_r.user_id)
        return [row[0] for row in await self._database.rows(statement)]

    async def withdraw(self, message_id: str, now: int) -> list[int] | None:
        """返回从 pending 成为 withdrawn 的收件人；早已撤回的是 None，什么也没有改。原子。

        未读的从此不算未读；连同 ``message.withdrawn`` 在一个事务里。
        """
        async with self._database.transaction() as connection:
            emptied = {"title": "", "content": "", "data": None, "withdrawn_at": now}
            first = await connection.execute(
                update(messages)
                .where(_m.message_id == message_id, _m.withdrawn_at.is_(None))
                .values(**emptied, enqueued_at=func.coalesce(_m.enqueued_at, now))
                .returning(_m.sender_id)
            )
            if (row := first.one_or_none()) is None:
                return None
            users = await self._end(connection, message_id, now)
            delivered = await connection.execute(
                select(func.count()).where(
                    _r.message_id == message_id, _r.status == DeliveryStatus.DELIVERED
                )
            )
            told = (message_id, row.sender_id or None, now, len(users), delivered.scalar_one())
            await self._database.events.add(connection, WITHDRAWN, [told], now)
        self._database.events.wake()
        return users

    async def _end(self, connection: AsyncConnection, message_id: str, now: int) -> list[int]:
        here = _r.message_id == message_id
        ended = await connection.execute(
            update(message_recipients)
            .where(here, _r.status == DeliveryStatus.PENDING)
            .values(status=DeliveryStatus.WITHDRAWN)
            .returning(_r.user_id)
        )
        users = sorted(row[0] for row in ended)
        unread = update(message_recipients).where(here, _r.read_at.is_(None))
        await connection.execute(unread.values(read_at=now))
        return users
