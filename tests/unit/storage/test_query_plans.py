"""表再大也不慢：每条常走的路都走得成索引，没有一条要从头到尾看过整张大表。"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import event

from meeting_push.clock import now_ms
from meeting_push.storage.database import Database
from meeting_push_bench.large_tables import LargeTables, paths

TABLES = LargeTables(2_000, now_ms())
#: 部分索引：只有没有做完的、失败了的在里面，从头看起就是要看的。
PARTIAL = ("mp_ix_messages_outbox", "mp_ix_messages_expiry", "mp_ix_recipients_failed")
SENT = {"sent page": "mp_ix_messages_sender", "sent page of a key": "mp_ix_messages_key"}
_BIG = re.compile(r"(SCAN|Seq Scan on) (mp_messages|mp_message_recipients)\b")


async def plans(database: Database) -> dict[str, list[str]]:
    """各条路 → 它的各句的计划，一步一行。"""
    asked: list[tuple[str, Any]] = []

    def note(*arguments: Any) -> None:
        asked.append((arguments[2], arguments[3]))

    engine, found = database._engine.sync_engine, {}
    for name, path in paths(database, TABLES).items():
        asked.clear()
        event.listen(engine, "before_cursor_execute", note)
        await path()
        event.remove(engine, "before_cursor_execute", note)
        found[name] = [line for one in list(asked) for line in await plan(database, *one)]
    return found


async def plan(database: Database, statement: str, given: Any) -> list[str]:
    if statement.startswith(("BEGIN", "PRAGMA")):
        return []
    explain = f"EXPLAIN {'QUERY PLAN ' if database.is_sqlite else ''}{statement}"
    async with database.transaction() as connection:
        if not database.is_sqlite:  # 小表本就该整个地看：问的是有没有别的办法
            await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        rows = await connection.exec_driver_sql(explain, given)
        return [str(row[-1]) for row in rows]


async def test_no_path_scans_a_large_table(database: Database) -> None:
    await TABLES.fill(database)
    found = await plans(database)
    assert all(found.values())
    scans = {
        (name, line)
        for name, lines in found.items()
        for line in lines
        if _BIG.search(line) and not any(index in line for index in PARTIAL)
    }
    assert scans == set()
    # 不是沿主键从新往旧、看过别人的每一条
    for name, index in SENT.items():
        assert any(index in line for line in found[name])


async def test_a_scan_is_found(database: Database) -> None:
    rows = await plan(database, "SELECT count(*) FROM mp_messages WHERE title = 'x'", ())
    assert any(_BIG.search(row) for row in rows)
