"""“列的值在这一串 id 里”，整串作一个参数。

语句文本与个数无关：不会撞上参数个数的上限（PostgreSQL 32767），预编译的语句也能复用。
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import (
    ColumnElement,
    String,
    Table,
    any_,
    bindparam,
    column,
    func,
    literal,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.elements import KeyedColumnElement
from sqlalchemy.types import BigInteger

from .database import Database
from .tables import message_recipients


def among(
    database: Database,
    column: KeyedColumnElement[int] | KeyedColumnElement[str],
    ids: Sequence[int] | Sequence[str],
) -> ColumnElement[bool]:
    if database.is_sqlite:
        listed = func.json_each(msgspec.json.encode(ids).decode()).table_valued("value")
        return column.in_(select(listed.c.value))
    return column == any_(literal(list(ids), ARRAY(column.type)))


#: 一条消息的一个收件人：(message_id, user_id)，``message_recipients`` 的主键。
Recipient = tuple[str, int]


def among_pairs(
    database: Database, pairs: Sequence[Recipient], table: Table = message_recipients
) -> ColumnElement[bool]:
    """``table`` 里恰是这些行；主键须是 (message_id, user_id)。"""
    key = tuple_(table.c.message_id, table.c.user_id)
    if database.is_sqlite:
        listed = func.json_each(msgspec.json.encode(pairs).decode()).table_valued("value")
        part = [func.json_extract(listed.c.value, path) for path in ("$[0]", "$[1]")]
        return key.in_(select(*part))
    ids, users = zip(*pairs, strict=True)
    rows = text("SELECT * FROM unnest(:pair_ids, :pair_users)").bindparams(
        bindparam("pair_ids", list(ids), ARRAY(String)),
        bindparam("pair_users", list(users), ARRAY(BigInteger)),
    )
    return key.in_(rows.columns(column("m", String), column("u", BigInteger)))
