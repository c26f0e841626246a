"""表大一百倍，各条路不跟着慢：没有一条要扫过整张表。

``MEETING_PUSH_LARGE_ROWS=20000000`` 看更大的；量得的写在 ``docs/performance.md``。
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meeting_push.clock import now_ms
from meeting_push.storage.database import Database
from tests.support.large_tables import LargeTables, paths
from tests.support.postgres_server import PostgresServer
from tests.support.server_process import ServerProcess

Show = Callable[[str], None]
LARGE = int(os.environ.get("MEETING_PUSH_LARGE_ROWS", "2000000"))
SMALL = 20_000
TIMES = 15
#: 比例之外容许差这么多：一毫秒以内的比例说明不了什么。
NOISE_MS = 3.0
START, START_MS = "启动到就绪", 2_000.0


async def measured(database: Database, tables: LargeTables) -> dict[str, float]:
    """各条路最快的一次，毫秒：别的进程也占着机器。"""
    found = {}
    for name, path in paths(database, tables).items():
        await path()
        took = []
        for _ in range(TIMES):
            began = time.perf_counter()
            await path()
            took.append((time.perf_counter() - began) * 1000)
        found[name] = min(took)
    return found


async def on_sqlite(folder: Path, tables: LargeTables) -> dict[str, float]:
    file = folder / "data" / "meeting-push.db"
    database = Database(f"sqlite:///{file}")
    await database.migrate()
    await asyncio.to_thread(tables.fill_sqlite, file)
    found = await measured(database, tables)
    await database.dispose()
    began = time.perf_counter()
    server = ServerProcess(folder, settings={"retention_days": 0})
    try:
        await asyncio.to_thread(server.start, 300)
        found[START] = (time.perf_counter() - began) * 1000
    finally:
        server.stop()
    return found


async def on_postgres(server: PostgresServer, tables: LargeTables) -> dict[str, float]:
    database = Database(server.create_database())
    await database.migrate()
    await tables.fill_postgres(database)
    found = await measured(database, tables)
    await database.dispose()
    return found


def compare(show: Show, small: dict[str, float], large: dict[str, float]) -> None:
    for name, took in large.items():
        show(f"{name}：{small[name]:.2f} → {took:.2f} ms")
    allowed = {name: 2 * took + NOISE_MS for name, took in small.items()}
    if START in small:
        allowed[START] = small[START] + START_MS
    assert {n: (small[n], took) for n, took in large.items() if took > allowed[n]} == {}


@pytest.mark.full_size
@pytest.mark.timeout(7_200)
async def test_a_sqlite_file_a_hundred_times_larger_is_not_slower(
    tmp_path: Path, show: Show
) -> None:
    now = now_ms()
    folders = (tmp_path / "small", tmp_path / "large")
    for folder in folders:
        (folder / "data").mkdir(parents=True)
    small = await on_sqlite(folders[0], LargeTables(SMALL, now))
    large = await on_sqlite(folders[1], LargeTables(LARGE, now))
    compare(show, small, large)


@pytest.mark.full_size
@pytest.mark.timeout(7_200)
async def test_a_postgres_table_a_hundred_times_larger_is_not_slower(
    postgres_server: PostgresServer, show: Show
) -> None:
    now = now_ms()
    small = await on_postgres(postgres_server, LargeTables(SMALL, now))
    large = await on_postgres(postgres_server, LargeTables(LARGE, now))
    compare(show, small, large)
