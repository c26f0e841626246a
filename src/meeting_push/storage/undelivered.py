"""没有送达的：对账者从记录里找出它们，放回发件箱。按消息 id 分页，不要求 status 上的索引。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, exists, func, or_, select, update

from ..model import DeliveryStatus
from .database import Database
from .id_list import among
from .recipients import first_id_at
from .tables import message_recipients, messages

_m: Final = messages.c
_r: Final = message_recipients.c
_PENDING: Final = _r.status == DeliveryStatus.PENDING

#: (message_id, user_id)
Recipient = tuple[str, int]


class UndeliveredRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def page_end(self, after: str, limit: int, now: int) -> str | None:
        """``after`` 之后第 ``limit`` 条还没过期的消息（不足则最后一条）；没有了则 None。"""
        page = (
            select(_m.message_id)
            .where(_m.message_id > after, _m.expires_at > now)
            .order_by(_m.message_id)
            .limit(limit)
            .subquery()
        )
        async with self._database.connect() as connection:
            found: str | None = await connection.scalar(select(func.max(page.c.message_id)))
        return found

    async def reopen(self, after: str, upto: str, now: int) -> int:
        """把一页里还有 pending 收件人的放回发件箱，返回几条。幂等。"""
        still = exists().where(_r.message_id == _m.message_id, _PENDING)
        return await self._reopen(
            _m.message_id > after, _m.message_id <= upto, _m.expires_at > now, still
        )

    async def reopen_messages(self, message_ids: Sequence[str], now: int) -> int:
        """同上，指明的几条。"""
        wanted = among(self._database, _m.message_id, message_ids)
        return await self._reopen(wanted, _m.expires_at > now)

    async def finished(self, after: str, upto: str, since: int) -> list[Recipient]:
        """一页里 ``since`` 之后才有结局（送达、失败、过期）的。"""
        ended = func.coalesce(_r.delivered_at, _r.failed_at, since)
        statement = select(_r.message_id, _r.user_id).where(
            _r.message_id > after,
            _r.message_id <= upto,
            _r.status != DeliveryStatus.PENDING,
            ended >= since,
        )
        async with self._database.connect() as connection:
            return [(row[0], row[1]) for row in await connection.execute(statement)]

    async def waiting(
        self, after: str, enqueued: tuple[int, int], now: int, limit: int
    ) -> list[Recipient]:
        """入队时刻在 ``enqueued`` 区间、早该投递而仍 pending 的，按消息 id 的前 ``limit`` 行。"""
        earliest, latest = enqueued
        statement = (
            select(_r.message_id, _r.user_id)
            .join(messages, _m.message_id == _r.message_id)
            .where(
                _r.message_id > after,
                _m.enqueued_at.between(earliest, latest),
                _m.expires_at > now,
                or_(_m.deliver_at.is_(None), _m.deliver_at < latest),
                _PENDING,
            )
            .order_by(_r.message_id)
            .limit(limit)
        )
        async with self._database.connect() as connection:
            return [(row[0], row[1]) for row in await connection.execute(statement)]

    async def _reopen(self, *conditions: ColumnElement[bool]) -> int:
        statement = (
            update(messages)
            .where(_m.enqueued_at.is_not(None), *conditions)
            .values(enqueued_at=None)
        )
        async with self._database.transaction() as connection:
            return (await connection.execute(statement)).rowcount


def oldest_possible(now: int, horizon_ms: int) -> str:
    """``horizon_ms`` 之前接受的都已过期：从这里开始翻页，不必扫过更早的。"""
    return first_id_at(max(0, now - horizon_ms))
