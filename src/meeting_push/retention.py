"""``db retention``、``db unarchive``、``db restored``：清理一遍，放回留底的，说库是放回来的。"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from .clock import now_ms
from .errors import ConfigurationError, UnavailableError
from .node_identity import NodeIdentity
from .outcome.retention import DAY_MS, Retention, read_archive
from .settings import RetentionSettings
from .storage.archive import ArchiveRepository
from .storage.database import Database
from .storage.fleet import ALIVE_MS, GenerationRepository, NodeRepository
from .storage.retention import Removed, RetentionRepository


async def remove_old(database: Database, settings: RetentionSettings, *, dry_run: bool) -> str:
    """做一遍（``dry_run``：只看），说做了什么。

    :raises ConfigurationError: 库还没有升级
    :raises UnavailableError: 别的进程正在做
    """
    await _ready(database)

    async def agreed() -> int:
        """没有 Redis 可问：数据库的与我们的里面慢的那个。"""
        theirs = await database.time_ms()
        return now_ms() if theirs is None else min(now_ms(), theirs)

    record = RetentionRepository(database)
    node, archive = NodeIdentity(), ArchiveRepository(database)
    work = Retention(settings, node, record, archive, agreed)
    days = await work.days()
    if not days:
        return "everything is kept: MEETING_PUSH_RETENTION_DAYS is 0"
    now = await agreed()
    before = f"{datetime.fromtimestamp((now - days * DAY_MS) / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    if dry_run:
        outlook = await work.outlook(now, days)
        return (
            f"older than {days} days (before {before}): {_told(outlook.would_go)} would be removed;"
            f" {outlook.stay} messages stay: not over yet"
        )
    removed = await work.do_now()
    if removed is None:
        raise UnavailableError("another process is removing old messages at this moment")
    return f"older than {days} days (before {before}): {_told(removed)} removed"


async def put_back(database: Database, files: Sequence[Path]) -> str:
    """:raises InvalidInputError: 不是留底的文件；在它之前的已放回"""
    await _ready(database)
    archive = ArchiveRepository(database)
    read = restored = 0
    for file in files:
        for rows in read_archive(file):
            read += len(rows)
            restored += await archive.restore(rows)
    return f"{restored} of {read} rows put back; the others are there already, or of erased people"


async def note_restored(database: Database) -> str:
    """刚做的备份里有它自己几秒之前的心跳：等过这几秒，还在跳的才是在服务。

    :raises ConfigurationError: 还有节点在服务
    """
    await _ready(database)
    nodes = NodeRepository(database)
    if await nodes.alive():
        await asyncio.sleep(ALIVE_MS / 1000)
    if alive := await nodes.alive():
        raise ConfigurationError(f"{alive} processes are serving this database: stop them first")
    await GenerationRepository(database).restored(another=True)
    return "at the next start Redis is cleared and what has not ended is delivered again"


async def _ready(database: Database) -> None:
    await database.meet_pooler()
    if await database.needs_migration():
        raise ConfigurationError("the schema is older: run `meeting-push db upgrade` first")


def _told(rows: Removed) -> str:
    return (
        f"{rows.messages} messages with {rows.recipients} recipients"
        f" (of them {rows.broadcasts} broadcasts with {rows.receipts} receipts)"
    )
