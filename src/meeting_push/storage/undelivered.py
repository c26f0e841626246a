"""没有送达的：对账者从记录里找出它们，放回发件箱。按消息 id 分页，不要求 status 上的索引。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, exists, func, or_, select, tuple_, update

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

    async def page_end(self, after: str, limit: int) -> str | None:
        """``after`` 之后第 ``limit`` 条消息（不足则最后一条）；没有了则 None。

        不论过期与否：只走主键，一页的代价不随没有用的旧消息变大（E3）。
        """
        page = (
            select(_m.message_id)
            .where(_m.message_id > after)
            .order_by(_m.message_id)
            .limit(limit)
            .subquery()
        )
        async with self._database.connect() as connection:
            found: str | None = await connection.scalar(select(func.max(page.c.message_id)))
        return found

    async def reopen(self, after: str, upto: str, now: int) -> int:
        """把一页里还有 pending 收件人的放回发件箱，返回几条。幂等。"""
        # 收件人那边也写明范围：不然数据库可能为这一页扫过整张表
        still = exists().where(
            _r.message_id == _m.message_id, _r.message_id > after, _r.message_id <= upto, _PENDING
        )
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
        self, after: Recipient, upto: str, enqueued: tuple[int, int], now: int, limit: int
    ) -> list[Recipient]:
        """``after`` 之后到消息 ``upto`` 为止，早该投递而仍 pending 的前 ``limit`` 行。

        ``enqueued``：只看入队时刻在这个区间的。
        """
        earliest, latest = enqueued
        statement = (
            select(_r.message_id, _r.user_id)
            .join(messages, _m.message_id == _r.message_id)
            .where(
                tuple_(_r.message_id, _r.user_id) > after,
                _r.message_id >= after[0],
                _r.message_id <= upto,
                _m.message_id >= after[0],
                _m.message_id <= upto,
                _m.enqueued_at.between(earliest, latest),
                _m.expires_at > now,
                or_(_m.deliver_at.is_(None), _m.deliver_at < latest),
                _PENDING,
            )
            .order_by(_r.message_id, _r.user_id)
            .limit(limit)
        )
        async with self._database.connect() as connection:
            return [(row[0], row[1]) for row in await connection.execute(statement)]

    async def _reopen(self, *conditions: ColumnElement[bool]) -> int:
        # 别人锁着的跳过，不等：它们成了掉队的，下一遍再看（SQLite 没有行锁）
        free = (
            select(_m.message_id)
            .where(_m.enqueued_at.is_not(None), *conditions)
            .with_for_update(skip_locked=True)
        )
        statement = update(messages).where(_m.message_id.in_(free)).values(enqueued_at=None)
        async with self._database.transaction() as connection:
            return (await connection.execute(statement)).rowcount


def oldest_possible(now: int, horizon_ms: int) -> str:
    """``horizon_ms`` 之前接受的都已过期：从这里开始翻页，不必扫过更早的。"""
    return first_id_at(max(0, now - horizon_ms))
