"""表结构的迁移：Alembic，由程序启动时自己执行。"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from loguru import logger
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ..errors import ConfigurationError

#: ``migrations/versions`` 里最新的一份；写新迁移时一并改（有测试核对）。
HEAD: Final = "0008"
MIGRATIONS: Final = Path(__file__).parent / "migrations"

_CURRENT: Final = text("SELECT version_num FROM alembic_version")
_PG_LOCK: Final = text("SELECT pg_advisory_xact_lock(7262711601)")  # 任意常数，只须各进程一致
_WAL_RETRY_S: Final = 0.02


async def needs_migration(connection: AsyncConnection) -> bool:
    """库是否还不在 ``HEAD``；空库也算。"""
    return not await connection.run_sync(_is_current)


async def migrate(engine: AsyncEngine, timeout_s: float) -> None:
    """在一个事务里升级到 ``HEAD``：要么全成，要么不变；其它进程在锁上等。

    :raises ConfigurationError: 库的版本不在我们的迁移之中（它比程序新）
    """
    is_sqlite = engine.dialect.name == "sqlite"
    if is_sqlite:
        async with asyncio.timeout(timeout_s):
            await _enter_wal(engine)
    async with engine.begin() as connection:
        if is_sqlite:
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            await connection.execute(_PG_LOCK)
        if await needs_migration(connection):
            await connection.run_sync(_upgrade)
            logger.bind(revision=HEAD).info("database_migrated")


def alembic_config(connection: Connection) -> Config:
    """供 ``alembic.command`` 使用的配置，作用于已打开的连接。"""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _is_current(connection: Connection) -> bool:
    if not inspect(connection).has_table("alembic_version"):
        return False
    return bool(connection.scalar(_CURRENT) == HEAD)


def _upgrade(connection: Connection) -> None:
    try:
        command.upgrade(alembic_config(connection), "head")
    except CommandError as error:
        raise ConfigurationError(f"the database can not be migrated: {error}") from error


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
