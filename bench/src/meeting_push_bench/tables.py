"""profile ``tables``：表大几百倍，各条路慢不慢；每条路的计划一并写进报告。"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from meeting_push.clock import now_ms
from meeting_push.storage.database import Database
from meeting_push.storage.engine import explained

from .failure import BenchError
from .large_tables import FILL_TIMEOUT_S, LargeTables, empty, paths
from .measured import MeasuredReport, Measurements
from .progress import Steps
from .report import Heading
from .server_under_test import end, free_port, launch, server_environment, wait_ready
from .target import Target

#: 表大了，每条路至多慢这么多倍；启动至多久这么多。
GOAL_TIMES: Final = 2.0
GOAL_START_MS: Final = 2_000.0
#: 一毫秒以内的比例说明不了什么：差这么多以内算一样。
NOISE_MS: Final = 1.0


class TablesPlan(msgspec.Struct, frozen=True, kw_only=True):
    """收件人的行数：``rows`` 与 ``small`` 比；每条路 ``repeats`` 遍取最快，启动 ``starts`` 遍。"""

    rows: int = 2_000_000
    small: int = 20_000
    repeats: int = 30
    starts: int = 3


QUICK_TABLES: Final = TablesPlan(rows=40_000, small=2_000, repeats=5, starts=1)


class TablesReport(MeasuredReport, frozen=True, kw_only=True):
    """``plans``：大表上各条路的计划（EXPLAIN），一步一行。"""

    plans: dict[str, list[str]]


def run_tables(
    plan: TablesPlan, database_url: str | None, heading: Heading, steps: Steps
) -> TablesReport:
    """``database_url``：一个空的库，做完又是空的；None 是临时的 SQLite。

    :raises BenchError: 库里有消息，或服务器起不来
    """
    found, plans = Measurements(), dict[str, list[str]]()
    uvloop.run(_compare(plan, database_url, found, plans, steps))
    report = MeasuredReport.of(heading, plan, found)
    return TablesReport(**msgspec.structs.asdict(report), plans=plans)


async def _compare(
    plan: TablesPlan,
    database_url: str | None,
    found: Measurements,
    plans: dict[str, list[str]],
    steps: Steps,
) -> None:
    small = await _measured(plan, plan.small, database_url, {}, steps)
    large = await _measured(plan, plan.rows, database_url, plans, steps)
    for name, took in large.items():
        before = small[name]
        label = f"{name}: {before:.2f} → {took:.2f} ms"
        if name == _START:
            found.add(name, label, took - before, "ms longer", "lower", GOAL_START_MS)
        elif name == _FILL:
            found.add(name, f"{name}: {plan.rows:,} rows", took / 1_000, "s")
        else:
            times = 1.0 if took - before <= NOISE_MS else took / before
            found.add(name, label, max(times, 0.01), "×", "lower", GOAL_TIMES)


_FILL: Final = "filling"
_START: Final = "start until ready"


async def _measured(
    plan: TablesPlan,
    rows: int,
    database_url: str | None,
    plans: dict[str, list[str]],
    steps: Steps,
) -> dict[str, float]:
    """各条路最快的一次、启动的中位数，毫秒。"""
    tables = LargeTables(rows, now_ms())
    with tempfile.TemporaryDirectory(prefix="mp-tables-") as name:
        folder = Path(name)
        (folder / "data").mkdir()
        url = database_url or f"sqlite:///{folder}/data/meeting-push.db"
        async with _filled(url, tables, steps) as fill_ms:
            took = {_FILL: fill_ms}
            database = Database(url)
            with steps.step(f"each path with {rows:,} rows"):
                for path in paths(database, tables):
                    took[path] = await _fastest(database, tables, path, plan.repeats)
                for path, work in paths(database, tables).items():
                    plans[path] = await explained(database._engine, work)
            await database.dispose()
            with steps.step(f"start with {rows:,} rows"):
                starts = sorted(_start_ms(folder, url) for _ in range(plan.starts))
            took[_START] = starts[len(starts) // 2]
    return took


@contextlib.asynccontextmanager
async def _filled(url: str, tables: LargeTables, steps: Steps) -> AsyncIterator[float]:
    """造好了；``yield`` 造了多少毫秒。"""
    database = Database(url, timeout_s=FILL_TIMEOUT_S)
    try:
        await database.migrate()
        async with database.connect() as connection:
            rows = await connection.exec_driver_sql("SELECT 1 FROM mp_messages LIMIT 1")
            if rows.first() is not None:
                raise BenchError("the database holds messages already; give an empty one")
        with steps.step(f"fill {tables.rows:,} rows"):
            began = time.perf_counter()
            await tables.fill(database)
            took_ms = (time.perf_counter() - began) * 1_000
        yield took_ms
        if not database.is_sqlite:
            await empty(database)
    finally:
        await database.dispose()


async def _fastest(database: Database, tables: LargeTables, name: str, repeats: int) -> float:
    """最快的一次：别的进程也占着机器。头一次不算。"""
    path = paths(database, tables)[name]
    await path()
    took = []
    for _ in range(repeats):
        began = time.perf_counter()
        await path()
        took.append((time.perf_counter() - began) * 1_000)
    return min(took)


def _start_ms(folder: Path, url: str) -> float:
    """``serve`` 启动到就绪；不清理旧的。"""
    target = Target(
        host="127.0.0.1",
        port=free_port(),
        redis_url=f"unix://{folder}/data/redis/redis.sock",
        jwt_secret=secrets.token_urlsafe(32),
        jwt_audience="meeting-push",
    )
    settings = {"database_url": url, "retention_days": 0}
    began = time.perf_counter()
    process = launch(folder, server_environment(target, folder, settings))
    try:
        wait_ready(process, target, folder / "log")
        return (time.perf_counter() - began) * 1_000
    finally:
        end(process)
