"""各张表共用的：登记处与列的类型。"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Integer, MetaData, String

metadata: Final = MetaData()

# ULID 只含 ASCII：用 "C" 排序规则比较更快，且次序必与 Python 的字符串次序一致。
message_id: Final = String(26).with_variant(String(26, collation="C"), "postgresql")
# SQLite 只有 INTEGER PRIMARY KEY 才是 rowid 的别名。
serial: Final = BigInteger().with_variant(Integer(), "sqlite")
