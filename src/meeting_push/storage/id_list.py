"""“列的值在这一串 id 里”，整串作一个参数。

语句文本与个数无关：不会撞上参数个数的上限（PostgreSQL 32767），预编译的语句也能复用。
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, any_, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.elements import KeyedColumnElement

from .database import Database


def among(
    database: Database,
    column: KeyedColumnElement[int] | KeyedColumnElement[str],
    ids: Sequence[int] | Sequence[str],
) -> ColumnElement[bool]:
    if database.is_sqlite:
        listed = func.json_each(msgspec.json.encode(ids).decode()).table_valued("value")
        return column.in_(select(listed.c.value))
    return column == any_(literal(list(ids), ARRAY(column.type)))
