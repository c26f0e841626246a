"""表与索引叫什么：前缀，与 PostgreSQL 的 schema。

别处（``tables.py``、各条语句、各份迁移）只写缺省的名字，如 ``mp_messages``。不是缺省的，SQL 文本
出门时换掉：每个文本换一次，记住；缺省的什么也不做。值都是参数，不在文本里，所以换不到别人写的东西。

应用自己的 ``users``、``messages``、``alembic_version`` 与我们无关：不读，不改，不当作我们的。唯一看
别人的表的地方是 ``made_by_0_1``：0.1 的表没有前缀，要认得出来。
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, event, inspect, text

from ..errors import ConfigurationError
from .sqlite import Statement
from .tables import metadata

DEFAULT_PREFIX: Final = "mp_"
#: 最长的名字是索引的（PostgreSQL 的上限 63）。
MAX_PREFIX: Final = 24
#: 迁移的版本记在这里。
VERSION_TABLE: Final = f"{DEFAULT_PREFIX}alembic_version"
TABLES: Final = (*sorted(metadata.tables), VERSION_TABLE)
_PREFIX: Final = re.compile(rf"(?!sqlite_|pg_)[a-z_][a-z0-9_]{{0,{MAX_PREFIX - 1}}}")
_SCHEMA: Final = re.compile(r"(?!pg_)[A-Za-z_][A-Za-z0-9_]{0,62}")
# 索引住在它的表的 schema 里：建的时候不许写 schema，删、改名的时候要写。
_NAMES: Final = re.compile(
    rf'(?<![\w."$]){DEFAULT_PREFIX}(?P<table>{"|".join(one[3:] for one in TABLES)})(?!\w)'
    r"|(?P<verb>\b(?:DROP|ALTER) INDEX (?:CONCURRENTLY )?(?:IF EXISTS )?)?"
    rf'(?<![\w."$]){DEFAULT_PREFIX}(?P<index>[iu]x_\w+)'
)
#: 记着的文本；我们的语句约两百种，多出来的是一次给出许多值的。
_MOST_TEXTS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Naming:
    prefix: str = DEFAULT_PREFIX
    schema: str | None = None
    _texts: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_default(self) -> bool:
        return self.prefix == DEFAULT_PREFIX and self.schema is None

    def name(self, default: str) -> str:
        """``mp_messages`` → 这里的名字，不带 schema。"""
        return self.prefix + default.removeprefix(DEFAULT_PREFIX)

    def sql(self, statement: str) -> str:
        """语句里缺省的名字换成这里的；换过的再换一遍不变。"""
        if self.is_default:
            return statement
        known = self._texts.get(statement)
        if known is None:
            if len(self._texts) >= _MOST_TEXTS:
                self._texts.clear()
            known = self._texts[statement] = _NAMES.sub(self._named, statement)
        return known

    def statements(self, given: Sequence[Statement]) -> Sequence[Statement]:
        if self.is_default:
            return given
        return [(self.sql(statement), values) for statement, values in given]

    def before(self, _connection: object, _cursor: object, *rest: Any) -> tuple[str, Any]:
        """SQLAlchemy 的 ``before_cursor_execute``（``retval=True``）。"""
        statement, parameters, *_ = rest
        return self.sql(statement), parameters

    def _named(self, found: re.Match[str]) -> str:
        within = f'"{self.schema}".' if self.schema else ""
        if found["table"]:
            return f"{within}{self.prefix}{found['table']}"
        verb = found["verb"] or ""
        return f"{verb}{within if verb else ''}{self.prefix}{found['index']}"


@contextmanager
def named(connection: Connection, naming: Naming) -> Iterator[None]:
    """这一会儿，这条连接上我们的语句说 ``naming`` 的名字。"""
    if naming.is_default:
        yield
        return
    event.listen(connection, "before_cursor_execute", naming.before, retval=True)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", naming.before)


@dataclass(frozen=True, slots=True)
class Wanted:
    """设置里说的；``prefix`` 没有说：看数据库是不是 0.1 建的。"""

    prefix: str | None = None
    schema: str | None = None

    def check(self, *, sqlite: bool) -> None:
        """:raises ConfigurationError: 不能作名字，或 SQLite 配了 schema"""
        if self.prefix and not _PREFIX.fullmatch(self.prefix):
            raise ConfigurationError(
                f"table_prefix: a to z, 0 to 9 and _, at most {MAX_PREFIX}, such as mp_"
            )
        if self.schema is None:
            return
        if sqlite:
            raise ConfigurationError("database_schema: SQLite has none; use table_prefix")
        if not _SCHEMA.fullmatch(self.schema):
            raise ConfigurationError("database_schema: letters, digits and _, at most 63")

    def naming(self) -> Naming:
        return Naming(DEFAULT_PREFIX if self.prefix is None else self.prefix, self.schema)


#: 什么也没有说。
UNSAID: Final = Wanted()
#: 0.1 的表，没有前缀。
BARE: Final = Naming("")
#: 都在，列也都在，才是 0.1 建的。
_MARKS: Final = {
    "message_recipients": {
        *("message_id", "user_id", "status", "attempts", "deliver_at", "sent_at"),
        *("delivered_at", "failed_at", "failure_reason", "read_at"),
    },
    "delivery_generation": {"id", "generation", "mark", "cursor", "holder", "lease_until"},
    "broadcast_receipts": {"message_id", "user_id", "delivered_at"},
}


def made_by_0_1(connection: Connection) -> bool:
    """这个数据库是不是 0.1 建的：没有前缀的那三张表都在，列也是它的。"""
    return all(_has(connection, BARE, table, columns) for table, columns in _MARKS.items())


def _has(connection: Connection, naming: Naming, table: str, columns: set[str]) -> bool:
    look, name = inspect(connection), naming.name(table)
    if not look.has_table(name, schema=naming.schema):
        return False
    return columns <= {one["name"] for one in look.get_columns(name, schema=naming.schema)}


def find_naming(connection: Connection, wanted: Wanted) -> Naming:
    """此刻该用的名字。

    :raises ConfigurationError: 数据库是 0.1 建的，而要的是别的名字；或版本表是别人的
    """
    naming = wanted.naming()
    bare = naming == BARE or (wanted.prefix is None and wanted.schema is None)
    if bare and made_by_0_1(connection):
        return BARE
    version = version_of(connection, naming)
    if version is None and not bare and made_by_0_1(connection):
        raise ConfigurationError(
            "this database was made by 0.1, its tables have no prefix: leave table_prefix and"
            " database_schema out, or rename them with `meeting-push db rename`"
        )
    recipients = "message_recipients"
    if version is not None and not _has(connection, naming, recipients, _MARKS[recipients]):
        raise ConfigurationError(
            f"the table {naming.name(VERSION_TABLE)} is not of meeting-push;"
            " choose another table_prefix"
        )
    return naming


def version_of(connection: Connection, naming: Naming) -> str | None:
    """迁移到了哪一份；没有版本表、或它是空的，None。"""
    table = naming.name(VERSION_TABLE)
    if not inspect(connection).has_table(table, schema=naming.schema):
        return None
    version: str | None = connection.scalar(
        text(naming.sql(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608 — 常量
    )
    return version


def taken(connection: Connection, naming: Naming) -> list[str]:
    """这些名字里，已经有表的；库还没有迁移过，那就是别人的。"""
    look = inspect(connection)
    names = [naming.name(one) for one in TABLES if one != VERSION_TABLE]
    return [name for name in names if look.has_table(name, schema=naming.schema)]
