"""表结构的迁移：Alembic，由程序启动时自己执行。"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util.exc import CommandError
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ..errors import ConfigurationError
from ..logs import logger

#: ``migrations/versions`` 里最新的一份；写新迁移时一并改（有测试核对）。
HEAD: Final = "0012"
MIGRATIONS: Final = Path(__file__).parent / "migrations"

_CURRENT: Final = text("SELECT version_num FROM alembic_version")
# 任意常数，只须各进程一致
_PG_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(7262711601)")
_PG_PATIENT: Final = text("SET LOCAL idle_in_transaction_session_timeout = 0")
_LOCK_POLL_S: Final = 0.1
#: 一份迁移等别人的锁至多这么久，然后让开再来。
LOCK_TIMEOUT_S: Final = 3
_PG_LOCK_TIMEOUT: Final = text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
_PG_LOCK_NOT_AVAILABLE: Final = "55P03"
_WAL_RETRY_S: Final = 0.02


class Step(NamedTuple):
    """一份迁移；``outside``：PostgreSQL 上不在事务里（CREATE INDEX CONCURRENTLY）。"""

    revision: str
    outside: bool


async def needs_migration(connection: AsyncConnection) -> bool:
    """库是否还不在 ``HEAD``；空库也算，新一步的不算（见 ``_is_current``）。"""
    return not await connection.run_sync(_is_current)


async def check_known(connection: AsyncConnection) -> None:
    """:raises ConfigurationError: 库的版本不在我们的迁移之中（比程序新不止一步，或不是我们的）"""
    await connection.run_sync(_pending)


async def migrate(engine: AsyncEngine, timeout_s: float) -> None:
    """升级到 ``HEAD``；其它进程等着。

    SQLite 全部在一个事务里；PostgreSQL 一份一个事务，等锁不超过 ``LOCK_TIMEOUT_S``：排在长事务
    后面的 ALTER 会挡住后来的一切读写，所以宁可让开再来。

    :raises ConfigurationError: 库的版本不在我们的迁移之中（比程序新不止一步，或不是我们的）
    """
    await _run(engine, timeout_s, _pending, command.upgrade)


async def downgrade(engine: AsyncEngine, revision: str, timeout_s: float) -> None:
    """退回 ``revision``（``base`` = 空库）；后来的列与表连同其中的数据都没有了。

    :raises ConfigurationError: 没有这个版本，或它比库的还新
    """

    def steps(connection: Connection) -> list[Step]:
        return _between(connection, revision)

    await _run(engine, timeout_s, steps, command.downgrade)


Steps = Callable[[Connection], list[Step]]
Command = Callable[[Config, str], None]


async def _run(engine: AsyncEngine, timeout_s: float, steps: Steps, move: Command) -> None:
    run = _run_sqlite if engine.dialect.name == "sqlite" else _run_postgresql
    async with asyncio.timeout(timeout_s):
        await run(engine, steps, move)


async def _run_sqlite(engine: AsyncEngine, steps: Steps, move: Command) -> None:
    await _enter_wal(engine)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
        for step in await connection.run_sync(steps):
            await connection.run_sync(_move, move, step)


async def _run_postgresql(engine: AsyncEngine, steps: Steps, move: Command) -> None:
    """一条连接握着锁，另一条做：CONCURRENTLY 要等所有更老的快照，握锁的不能有快照。"""
    async with engine.connect() as lock:
        await lock.execution_options(isolation_level="READ COMMITTED")
        # 问一声，不排队：排着队等锁的语句有快照，会与 CONCURRENTLY 互等
        await _until(partial(_locked, lock))
        todo = await lock.run_sync(steps)
        await lock.execute(_PG_PATIENT)  # 也换掉上一句的门户（portal）：它还握着快照
        for step in todo:
            await _until(partial(_moved, engine, move, step))


async def _until(attempt: Callable[[], Awaitable[bool]]) -> None:
    while True:
        if await attempt():
            return
        await asyncio.sleep(_LOCK_POLL_S)


async def _locked(connection: AsyncConnection) -> bool:
    await connection.rollback()
    return bool(await connection.scalar(_PG_LOCK))


async def _moved(engine: AsyncEngine, move: Command, step: Step) -> bool:
    """False：要的锁被占着，什么也没有做；让开，等一等再来。"""
    level: Literal["AUTOCOMMIT", "READ COMMITTED"]
    level = "AUTOCOMMIT" if step.outside else "READ COMMITTED"
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level=level)
        try:
            async with connection.begin():
                if not step.outside:
                    await connection.execute(_PG_LOCK_TIMEOUT)
                await connection.run_sync(_move, move, step)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _PG_LOCK_NOT_AVAILABLE:
                raise
            logger.bind(revision=step.revision).warning("migration_waits_for_a_lock")
            return False
    return True


def alembic_config(connection: Connection) -> Config:
    """供 ``alembic.command`` 使用的配置，作用于已打开的连接。"""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _is_current(connection: Connection) -> bool:
    """在 ``HEAD``，或恰新一步：先扩后缩（docs/operations.md），新一步的旧程序照样能用。"""
    current = _version(connection)
    return current in (HEAD, _next_to(HEAD))


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.scalar(_CURRENT)
    return version


def _next_to(revision: str) -> str:
    return f"{int(revision) + 1:04d}"


def _pending(connection: Connection) -> list[Step]:
    if _is_current(connection):
        return []
    script = _script(connection)
    current = _version(connection)
    _check_known(script, current)
    found = list(script.iterate_revisions(HEAD, current or "base"))
    return [_step(one.revision, one.module) for one in reversed(found)]


def _between(connection: Connection, target: str) -> list[Step]:
    """从此刻的往回，到 ``target`` 为止；各步是“退到哪里”。"""
    script, current = _script(connection), _version(connection)
    _check_known(script, current)
    try:
        found = list(script.iterate_revisions(current or "base", target))
    except (CommandError, RevisionError):
        raise ConfigurationError(f"no way back from {current} to {target}") from None
    return [_step(str(one.down_revision or "base"), one.module) for one in found]


def _script(connection: Connection) -> ScriptDirectory:
    return ScriptDirectory.from_config(alembic_config(connection))


def _step(revision: str, module: object) -> Step:
    return Step(revision, bool(getattr(module, "OUTSIDE_TRANSACTION", False)))


def _check_known(script: ScriptDirectory, current: str | None) -> None:
    if current is None or current in {one.revision for one in script.walk_revisions()}:
        return
    if current.isdigit() and current > HEAD:
        raise ConfigurationError(
            f"the database is newer than this program: its schema is {current}, this program"
            f" knows up to {HEAD}; run the newer program, or let it `meeting-push db downgrade"
            f" {HEAD}` first"
        )
    raise ConfigurationError(f"the schema {current!r} in alembic_version is not of meeting-push")


def _move(connection: Connection, move: Command, step: Step) -> None:
    try:
        move(alembic_config(connection), step.revision)
    except CommandError as error:
        raise ConfigurationError(f"the database can not be migrated: {error}") from error
    logger.bind(revision=step.revision).info("database_migrated")


async def _enter_wal(engine: AsyncEngine) -> None:
    """WAL 记在文件里，设一次即可。

    切换要独占，而 SQLite 此时不理会 busy_timeout（实测 6 个进程同时启动，240 次里 9 次被拒），
    所以撞上正在切换的进程就再试。
    """
    while True:
        try:
            async with engine.connect() as connection:
                await connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            return
        except OperationalError as error:
            if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        await asyncio.sleep(_WAL_RETRY_S)
