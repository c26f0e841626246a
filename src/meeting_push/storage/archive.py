"""留底：要删的消息整行地读出来，从留底的文件放回去。"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Table, literal, select, tuple_
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from ..errors import InvalidInputError
from .database import Repository
from .erasures import NOBODYS, TOMBSTONE
from .id_list import among
from .naming import DEFAULT_PREFIX
from .tables import (
    broadcast_receipts,
    broadcast_states,
    broadcasts,
    erasures,
    message_recipients,
    messages,
)

#: 一次读、放回这么多行。
BATCH: Final = 500
#: 次序即放回的次序。
_TABLES: Final = {
    one.name.removeprefix(DEFAULT_PREFIX): one
    for one in (messages, broadcasts, message_recipients, broadcast_receipts, broadcast_states)
}


Row = dict[str, str | int | bool | None]


class ArchivedRow(msgspec.Struct, frozen=True):
    """留底的一行；``table`` 不带前缀。"""

    table: str
    row: Row


class ArchiveRepository(Repository):
    async def rows(self, message_ids: Sequence[str]) -> AsyncIterator[list[ArchivedRow]]:
        """这些消息在各表里的行，一批一批。"""
        for name, table in _TABLES.items():
            key, after = list(table.primary_key), None
            while found := await self._page(table, message_ids, after):
                yield [ArchivedRow(name, row) for row in found]
                after = tuple(found[-1][column.name] for column in key)
                if len(found) < BATCH:
                    break

    async def _page(
        self, table: Table, message_ids: Sequence[str], after: tuple[Any, ...] | None
    ) -> Sequence[Row]:
        key = list(table.primary_key)
        statement = select(table).where(among(self._database, table.c.message_id, message_ids))
        if after is not None:
            statement = statement.where(tuple_(*key) > tuple_(*map(literal, after)))
        rows = await self._database.rows(statement.order_by(*key).limit(BATCH))
        return [dict(row._mapping) for row in rows]

    async def restore(self, rows: Sequence[ArchivedRow]) -> int:
        """一个事务里放回去，已有的不动；返回放回几行。

        抹掉了的人收到的不放回，他写的只剩一条抹掉了的。

        :raises InvalidInputError: 不是留底的行
        """
        gone, count = await self._erased(rows), 0
        async with self._database.transaction() as connection:
            for name, table in _TABLES.items():
                values = [
                    _values(table, _without_author(one.row, gone))
                    for one in rows
                    if one.table == name and one.row.get("user_id") not in gone
                ]
                if values:
                    make = sqlite_insert if self._database.is_sqlite else postgres_insert
                    statement = make(table).values(values).on_conflict_do_nothing()
                    count += (await connection.execute(statement)).rowcount
        return count

    async def _erased(self, rows: Sequence[ArchivedRow]) -> set[object]:
        """这些行里说到的人，其中抹掉了的。"""
        said = {one.row.get(name) for one in rows for name in ("user_id", "sender_id")}
        users = [one for one in said if isinstance(one, int)]
        his = among(self._database, erasures.c.user_id, users)
        return {row[0] for row in await self._database.rows(select(erasures.c.user_id).where(his))}


def checked(row: ArchivedRow) -> ArchivedRow:
    """:raises InvalidInputError: 没有这样的表，或缺了列"""
    table = _TABLES.get(row.table)
    if table is None or any(not row.row.get(column.name) for column in table.primary_key):
        raise InvalidInputError("this is no row of an archive of messages")
    return row


def _values(table: Table, row: Row) -> Row:
    """旧的留底没有的列空着，新的多出的不要。"""
    return {column.name: row.get(column.name) for column in table.columns}


def _without_author(row: Row, gone: set[object]) -> Row:
    if "sender_name" not in row or row.get("sender_id") not in gone:
        return row
    blank: Row = {
        "title": "",
        "content": "",
        "data": TOMBSTONE,
        "sender_name": "",
        "receipt": False,
    }
    return {**row, **blank, "sender_id": NOBODYS}
