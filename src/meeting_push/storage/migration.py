"""表结构的迁移：Alembic，由程序启动时自己执行。"""

from __future__ import annotations

import asyncio
import io
import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from sqlalchemy import Connection, event, inspect, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateSchema

from ..errors import ConfigurationError
from ..logs import logger
from .naming import (
    DEFAULT_PREFIX,
    VERSION_TABLE,
    Naming,
    Wanted,
    named,
    taken,
    version_of,
)

if TYPE_CHECKING:  # Alembic 要动结构时才导入：多半的启动不必
    from alembic.script import ScriptDirectory

#: ``migrations/versions`` 里最新的一份；写新迁移时一并改（有测试核对）。
HEAD: Final = "0022"
MIGRATIONS: Final = Path(__file__).parent / "migrations"

# 任意常数，只须各进程一致
PG_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(7262711601)")
_PG_PATIENT: Final = text("SET LOCAL idle_in_transaction_session_timeout = 0")
_LOCK_POLL_S: Final = 0.1
#: 一份迁移等别人的锁至多这么久，然后让开再来。
LOCK_TIMEOUT_S: Final = 3
_PG_LOCK_TIMEOUT: Final = text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
_PG_LOCK_NOT_AVAILABLE: Final = "55P03"
_WAL_RETRY_S: Final = 0.02


class Step(NamedTuple):
    """一份迁移，或（``back``）退回到它；``outside``：PostgreSQL 上不在事务里（CONCURRENTLY）。"""

    revision: str
    outside: bool
    back: bool = False


def is_current(connection: Connection, naming: Naming) -> bool:
    """在 ``HEAD``，或恰新一步：先扩后缩（docs/operations.md），旧程序照样能用。空库不算。"""
    return version_of(connection, naming) in (HEAD, _next_to(HEAD))


async def migrate(engine: AsyncEngine, naming: Naming, timeout_s: float) -> None:
    """升级到 ``HEAD``；其它进程等着。``engine`` 说的名字须是 ``naming`` 的（``Naming.before``）。

    SQLite 全部在一个事务里；PostgreSQL 一份一个事务，等锁不超过 ``LOCK_TIMEOUT_S``：排在长事务
    后面的 ALTER 会挡住后来的一切读写，所以宁可让开再来。

    :raises ConfigurationError: 同 ``pending``
    """
    await _run(engine, naming, pending, timeout_s)


async def downgrade(engine: AsyncEngine, naming: Naming, revision: str, timeout_s: float) -> None:
    """退回 ``revision``（``base`` = 空库）；后来的列与表连同其中的数据都没有了。

    :raises ConfigurationError: 没有这个版本，或它比库的还新
    """
    await _run(engine, naming, partial(_between, target=revision), timeout_s)


Steps = Callable[[Connection, Naming], list[Step]]


async def _run(engine: AsyncEngine, naming: Naming, steps: Steps, timeout_s: float) -> None:
    run = _run_sqlite if engine.dialect.name == "sqlite" else _run_postgresql
    async with asyncio.timeout(timeout_s):
        await run(engine, naming, steps)


async def _run_sqlite(engine: AsyncEngine, naming: Naming, steps: Steps) -> None:
    await _enter_wal(engine)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
        for step in await connection.run_sync(steps, naming):
            await connection.run_sync(_move, naming, step)


async def _run_postgresql(engine: AsyncEngine, naming: Naming, steps: Steps) -> None:
    """一条连接握着锁，另一条做：CONCURRENTLY 要等所有更老的快照，握锁的不能有快照。"""
    async with engine.connect() as lock:
        await lock.execution_options(isolation_level="READ COMMITTED")
        # 问一声，不排队：排着队等锁的语句有快照，会与 CONCURRENTLY 互等
        await _until(partial(_locked, lock))
        async with engine.begin() as connection:
            await connection.run_sync(make_schema, naming)
        todo = await lock.run_sync(steps, naming)
        await lock.execute(_PG_PATIENT)  # 也换掉上一句的门户（portal）：它还握着快照
        for step in todo:
            await _until(partial(_moved, engine, naming, step))


def make_schema(connection: Connection, naming: Naming) -> None:
    """已有的不碰：有 IF NOT EXISTS 也要先有建 schema 的权限。"""
    if naming.schema is not None and not inspect(connection).has_schema(naming.schema):
        connection.execute(CreateSchema(naming.schema))


async def _until(attempt: Callable[[], Awaitable[bool]]) -> None:
    while True:
        if await attempt():
            return
        await asyncio.sleep(_LOCK_POLL_S)


async def _locked(connection: AsyncConnection) -> bool:
    await connection.rollback()
    return bool(await connection.scalar(PG_LOCK))


async def _moved(engine: AsyncEngine, naming: Naming, step: Step) -> bool:
    """False：要的锁被占着，什么也没有做；让开，等一等再来。"""
    level: Literal["AUTOCOMMIT", "READ COMMITTED"]
    level = "AUTOCOMMIT" if step.outside else "READ COMMITTED"
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level=level)
        try:
            async with connection.begin():
                if not step.outside:
                    await connection.execute(_PG_LOCK_TIMEOUT)
                await connection.run_sync(_move, naming, step)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _PG_LOCK_NOT_AVAILABLE:
                raise
            logger.bind(revision=step.revision).warning("migration_waits_for_a_lock")
            return False
    return True


def _next_to(revision: str) -> str:
    return f"{int(revision) + 1:04d}"


def pending(connection: Connection, naming: Naming) -> list[Step]:
    """还要做的各份，依次。

    :raises ConfigurationError: 库的版本不在我们的迁移之中（比程序新不止一步，或不是我们的）；
        还没有迁移过，而我们要的名字已经有人用了
    """
    if is_current(connection, naming):
        return []
    script, current = _script(), version_of(connection, naming)
    _check_known(script, current)
    if current is None and (others := taken(connection, naming)):
        raise ConfigurationError(
            f"the table {others[0]} is there already and not of meeting-push;"
            " choose another table_prefix, or a database_schema"
        )
    found = list(script.iterate_revisions(HEAD, current or "base"))
    return [_step(one.revision, one.module) for one in reversed(found)]


def _between(connection: Connection, naming: Naming, target: str) -> list[Step]:
    """从此刻的往回，到 ``target`` 为止；各步是“退到哪里”。"""
    from alembic.script.revision import RevisionError
    from alembic.util.exc import CommandError

    script, current = _script(), version_of(connection, naming)
    _check_known(script, current)
    try:
        found = list(script.iterate_revisions(current or "base", target))
    except (CommandError, RevisionError):
        raise ConfigurationError(f"no way back from {current} to {target}") from None
    return [_step(str(one.down_revision or "base"), one.module, back=True) for one in found]


def _script() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(MIGRATIONS))


def _step(revision: str, module: object, *, back: bool = False) -> Step:
    return Step(revision, bool(getattr(module, "OUTSIDE_TRANSACTION", False)), back)


def _check_known(script: ScriptDirectory, current: str | None) -> None:
    if current is None or current in {one.revision for one in script.walk_revisions()}:
        return
    if current.isdigit() and current > HEAD:
        raise ConfigurationError(
            f"the database is newer than this program: its schema is {current}, this program"
            f" knows up to {HEAD}; run the newer program, or let it `meeting-push db downgrade"
            f" {HEAD}` first"
        )
    raise ConfigurationError(f"the schema {current!r} is not of meeting-push")


def _options(naming: Naming, step: Step) -> dict[str, object]:
    script = _script()
    find = script._downgrade_revs if step.back else script._upgrade_revs
    return {
        "fn": lambda current, _context: find(step.revision, current),
        "version_table": naming.name(VERSION_TABLE),
        "version_table_schema": naming.schema,
    }


def _move(connection: Connection, naming: Naming, step: Step) -> None:
    """不经 Alembic 的全局代理 ``alembic.op``：应用自己的迁移可能正在用它，我们也可能有两个。"""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from alembic.util.exc import CommandError

    context = MigrationContext.configure(connection, opts=_options(naming, step))
    try:
        context.run_migrations(op=Operations(context))
    except CommandError as error:
        raise ConfigurationError(f"the database can not be migrated: {error}") from error
    logger.bind(revision=step.revision).info("database_migrated")


# ── 不经我们的手 ─────────────────────────────────────────────────────────────


def script_of(dialect: str, naming: Naming, current: str | None) -> str:
    """从 ``current``（None：空库）到 ``HEAD`` 的 SQL，一份一个事务，供 DBA 看过再执行。"""
    out, before = io.StringIO(), current
    for one in reversed(list(_script().iterate_revisions(HEAD, current or "base"))):
        step = _step(one.revision, one.module)
        _write_out(dialect, naming, out, before, step)
        before = step.revision
    return naming.sql(out.getvalue())


def _write_out(
    dialect: str, naming: Naming, out: io.StringIO, before: str | None, step: Step
) -> None:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    options = {
        **_options(naming, step),
        "as_sql": True,
        "output_buffer": out,
        "starting_rev": before,
        "transactional_ddl": not step.outside,
        "transaction_per_migration": True,
    }
    context = MigrationContext.configure(dialect_name=dialect, opts=options)
    context.run_migrations(op=Operations(context))


def upgrade_tables(
    connection: Connection, prefix: str = DEFAULT_PREFIX, schema: str | None = None
) -> None:
    """在应用自己的 Alembic 的一份迁移里，把我们的表带到最新：随它的事务一起提交或回滚。

    索引不以 ``CONCURRENTLY`` 建（它不能在事务里）：消息很多的库由 ``db upgrade`` 来升。

    :raises ConfigurationError: 名字不行，或同 ``pending``
    """
    wanted = Wanted(prefix, schema)
    wanted.check(sqlite=connection.dialect.name == "sqlite")
    naming = wanted.naming()
    make_schema(connection, naming)
    event.listen(connection, "before_cursor_execute", _in_line, retval=True)
    try:
        with named(connection, naming):
            for step in pending(connection, naming):
                _move(connection, naming, step)
    finally:
        event.remove(connection, "before_cursor_execute", _in_line)


def _in_line(_connection: object, _cursor: object, *rest: Any) -> tuple[str, Any]:
    statement, parameters, *_ = rest
    return statement.replace(" INDEX CONCURRENTLY ", " INDEX "), parameters


async def _enter_wal(engine: AsyncEngine) -> None:
    """WAL 记在文件里，设一次即可。

    切换要独占，而 SQLite 此时不理会 busy_timeout（实测 6 个进程同时启动，240 次里 9 次被拒），
    所以撞上正在切换的进程就再试。
    """
    while True:
        try:
            async with engine.connect() as connection:
                # 第一张表之前才算数；已有的文件不变（docs/operations.md）
                await connection.exec_driver_sql("PRAGMA auto_vacuum=INCREMENTAL")
                await connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            return
        except OperationalError as error:
            if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        await asyncio.sleep(_WAL_RETRY_S)
