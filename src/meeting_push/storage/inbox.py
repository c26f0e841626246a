"""一个用户的收件箱：已到时的消息，新的在前。"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Integer,
    Row,
    Select,
    bindparam,
    func,
    or_,
    select,
    update,
)

from ..clock import Clock, now_ms
from ..model import DeliveryStatus
from .database import Database
from .event_outbox import READ
from .id_list import among
from .rows import MESSAGE_COLUMNS, InboxItem, Page, shown
from .tables import message_recipients, messages

#: 一页的正文与 data 合计；再多的下一页。几十个人同时要最大的一页，也只是几十 MB。
MAX_PAGE_CHARS: Final = 256 * 1024
_r: Final = message_recipients.c
_SELECT: Final = select(*MESSAGE_COLUMNS, _r.status, _r.read_at).join(
    message_recipients, _r.message_id == messages.c.message_id
)


def _visible(now: object) -> ColumnElement[bool]:
    return or_(_r.deliver_at.is_(None), _r.deliver_at <= now)


# 语句造一次：每次造的要编译的键，还是一个个要等垃圾回收的环
_OWN: Final = (_r.user_id == bindparam("user_id"), _visible(bindparam("now")))
_ONE: Final = _SELECT.where(*_OWN, _r.message_id == bindparam("message_id"))
_UNREAD: Final = select(func.count()).where(*_OWN, _r.read_at.is_(None))


class InboxRepository:
    """``clock`` 决定 ``read_at`` 与哪些定时消息已经到时。"""

    def __init__(self, database: Database, clock: Clock = now_ms) -> None:
        self._database = database
        self._clock = clock

    async def page(
        self, user_id: int, unread_only: bool = False, cursor: str | None = None, limit: int = 50
    ) -> Page[InboxItem, str]:
        """比 ``cursor``（上一页最后一条的 id）更早的至多 ``limit`` 条、``MAX_PAGE_CHARS``。"""
        given = {"user_id": user_id, "now": self._clock(), "cursor": cursor, "limit": limit + 1}
        statement = _page(unread_only, cursor is not None)
        rows = await self._database.rows(statement, given)
        items = [_item(row) for row in rows[:limit]]
        more = bool(rows) and rows[0].found > len(items)
        return Page(items, items[-1].message.message_id if more else None)

    async def get_for(self, user_id: int, message_id: str) -> InboxItem | None:
        """不是他的、没到时的、不存在的，都是 None。"""
        given = {"user_id": user_id, "now": self._clock(), "message_id": message_id}
        row = await self._database.row(_ONE, given)
        return None if row is None else _item(row)

    async def mark_read(self, user_id: int, message_ids: Sequence[str]) -> list[str]:
        """标为已读，返回此刻才变为已读的 id（升序）；不是他的被忽略。幂等。"""
        return await self._mark(user_id, among(self._database, _r.message_id, message_ids))

    async def mark_read_upto(self, user_id: int, message_id: str) -> list[str]:
        """``message_id`` 和比它早的全部标为已读；其余同 ``mark_read``。"""
        return await self._mark(user_id, _r.message_id <= message_id)

    async def unread_count(self, user_id: int) -> int:
        given = {"user_id": user_id, "now": self._clock()}
        return await self._database.scalar(_UNREAD, given) or 0

    async def _mark(self, user_id: int, condition: ColumnElement[bool]) -> list[str]:
        now, events = self._clock(), self._database.events
        statement = (
            update(message_recipients)
            .where(_r.user_id == user_id, condition, _r.read_at.is_(None), _visible(now))
            .values(read_at=now)
            .returning(_r.message_id)
        )
        async with self._database.transaction() as connection:
            read = sorted(await connection.scalars(statement))
            if READ in events.wanted:
                told = [(message_id, user_id, now) for message_id in read]
                await events.add(connection, READ, told, now)
        events.wake()
        return read


@cache
def _page(unread: bool, after_cursor: bool) -> Select[Any]:
    """大的正文不读出来再丢：先在数据库里量好读到哪一条为止（A7）；第一条总在。"""
    wanted = [*_OWN]
    if unread:
        wanted.append(_r.read_at.is_(None))
    if after_cursor:
        wanted.append(_r.message_id < bindparam("cursor"))
    own = messages.c.message_id == _r.message_id
    size = func.length(messages.c.content) + func.coalesce(func.length(messages.c.data), 0)
    heads = (
        select(_r.message_id, size.label("size"))
        .join(messages, own)
        .where(*wanted)
        .order_by(_r.message_id.desc())
        .limit(bindparam("limit", type_=Integer))
        .cte("heads")
    )
    running = func.sum(heads.c.size).over(order_by=heads.c.message_id.desc())
    measured = select(
        heads.c.message_id,
        (running - heads.c.size).label("before"),
        func.count().over().label("found"),
    ).cte("measured")
    return (
        _SELECT.add_columns(measured.c.found)
        .join(measured, measured.c.message_id == _r.message_id)
        .where(*wanted, measured.c.before < MAX_PAGE_CHARS)
        .order_by(_r.message_id.desc())
    )


def _item(row: Row[*tuple[Any, ...]]) -> InboxItem:
    return InboxItem(shown(row), DeliveryStatus(row.status), row.read_at)
