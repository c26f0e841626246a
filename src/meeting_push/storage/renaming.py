"""把一套表改成别的名字：``meeting-push db rename``。只有它改名，别处从不。

一个事务：表、索引、约束、序列、版本表，要么都改了，要么都没有。要的是停下来的时候做：开着的程序说的还是
旧的名字。
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Final

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from ..errors import ConfigurationError
from .migration import PG_LOCK, make_schema, pending
from .naming import BARE, TABLES, Naming, made_by_0_1, taken, version_of

#: 这么久之内写过自己一行的节点，算开着。
_ALIVE_MS: Final = 15_000
# 值都是参数：跨着 schema，表按 oid 找
_PG_PARTS: Final = text(
    "SELECT 'CONSTRAINT' AS kind, conname AS name FROM pg_constraint"
    " WHERE conrelid = CAST(:table AS regclass) AND contype <> 'n' UNION ALL"
    " SELECT 'INDEX', c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
    " WHERE i.indrelid = CAST(:table AS regclass) AND NOT EXISTS"
    " (SELECT 1 FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype <> 'f')"
    " UNION ALL SELECT 'SEQUENCE', s.relname FROM pg_depend d JOIN pg_class s ON s.oid = d.objid"
    " WHERE d.refobjid = CAST(:table AS regclass) AND s.relkind = 'S' AND d.deptype IN ('a', 'i')"
)
_SQLITE_INDEXES: Final = text(
    "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = :table"
    " AND sql IS NOT NULL"
)


async def rename(engine: AsyncEngine, old: Naming, new: Naming, timeout_s: float) -> str:
    """改名，返回表结构的版本。``engine`` 不得替我们换名字。

    :raises ConfigurationError: 没有叫那些名字的；新的名字已有人用；还有开着的节点
    """
    async with asyncio.timeout(timeout_s), engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif not await connection.scalar(PG_LOCK):
            raise ConfigurationError("somebody migrates this database just now; try again later")
        return await connection.run_sync(partial(_rename, old=old, new=new))


def _rename(connection: Connection, old: Naming, new: Naming) -> str:
    version = _check(connection, old, new)
    make_schema(connection, new)
    look = inspect(connection)
    for table in TABLES:
        if look.has_table(old.name(table), schema=old.schema):
            for statement in _statements(connection, old, new, table):
                connection.execute(text(statement))
    return version


def _check(connection: Connection, old: Naming, new: Naming) -> str:
    where = f"named {old.name('mp_*')}"
    if old == new:
        raise ConfigurationError(f"the tables are {where} already")
    if old == BARE and not made_by_0_1(connection):
        raise ConfigurationError("nothing to rename: this database was not made by 0.1")
    version = version_of(connection, old)
    if version is None:
        raise ConfigurationError(f"nothing to rename: no tables of meeting-push are {where}")
    pending(connection, old)  # 是我们的、认得的版本
    if version_of(connection, new) is not None or taken(connection, new):
        raise ConfigurationError(f"there are tables named {new.name('mp_*')} already")
    if nodes := _alive(connection, old):
        raise ConfigurationError(f"stop the servers first: {', '.join(nodes)} is running")
    return version


def _alive(connection: Connection, naming: Naming) -> list[str]:
    """0.1 没有这张表：谁开着，看不出来。"""
    if not inspect(connection).has_table(naming.name("mp_nodes"), schema=naming.schema):
        return []
    now = (
        "(julianday('now') - 2440587.5) * 86400000"
        if connection.dialect.name == "sqlite"
        else "extract(epoch from clock_timestamp()) * 1000"
    )
    recent = f"SELECT node_id FROM {_at(naming, 'mp_nodes')} WHERE beat_at > {now} - {_ALIVE_MS}"  # noqa: S608 — 名字检查过
    return list(connection.scalars(text(recent)))


def _statements(connection: Connection, old: Naming, new: Naming, table: str) -> Iterator[str]:
    if connection.dialect.name == "sqlite":
        yield f'ALTER TABLE "{old.name(table)}" RENAME TO "{new.name(table)}"'
        yield from _sqlite_indexes(connection, old, new, table)
        return
    before = _at(old, table)
    parts = connection.execute(_PG_PARTS, {"table": before}).all()
    for kind, name in parts:
        if (found := _renamed(name, old, new)) == name:
            continue
        of = f'TABLE {before} RENAME CONSTRAINT "{name}"' if kind == "CONSTRAINT" else ""
        yield f'ALTER {of or f"{kind} {_quoted(old, name)} RENAME"} TO "{found}"'
    yield f'ALTER TABLE {before} RENAME TO "{new.name(table)}"'
    if new.schema != old.schema and new.schema is not None:
        yield f'ALTER TABLE {_at(old, table, new)} SET SCHEMA "{new.schema}"'


def _sqlite_indexes(connection: Connection, old: Naming, new: Naming, table: str) -> Iterator[str]:
    """SQLite 的索引不能改名：照它的定义重建。表此刻已改了名，定义里的表名也跟着改了。"""
    for name, definition in connection.execute(_SQLITE_INDEXES, {"table": new.name(table)}).all():
        head, _, rest = definition.partition(name)
        yield f'DROP INDEX "{name}"'
        yield f"{head}{_renamed(name, old, new)}{rest}"


def _renamed(name: str, old: Naming, new: Naming) -> str:
    """不带旧前缀的（别人在我们的表上加的）不改。"""
    return new.prefix + name.removeprefix(old.prefix) if name.startswith(old.prefix) else name


def _at(naming: Naming, table: str, renamed: Naming | None = None) -> str:
    return _quoted(naming, (renamed or naming).name(table))


def _quoted(naming: Naming, name: str) -> str:
    return f'"{naming.schema}"."{name}"' if naming.schema else f'"{name}"'
