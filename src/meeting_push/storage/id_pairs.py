"""“(message_id, user_id) 在这一串里”，与 ``id_list`` 同理。"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, String, bindparam, column, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import BigInteger

from .database import Database
from .tables import message_recipients

Pair = tuple[str, int]


def among_pairs(database: Database, pairs: Sequence[Pair]) -> ColumnElement[bool]:
    """``message_recipients`` 里恰是这些行。"""
    key = tuple_(message_recipients.c.message_id, message_recipients.c.user_id)
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
