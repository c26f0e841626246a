"""大表：由 SQL 成批造出来的，就是 Python 说的那些行。"""

from __future__ import annotations

from meeting_push.clock import now_ms
from meeting_push.storage.database import Database
from meeting_push_bench.large_tables import EACH, LargeTables

TABLES = LargeTables(3_000, now_ms())


async def rows(database: Database, statement: str) -> list[tuple[object, ...]]:
    async with database.connect() as connection:
        found = await connection.exec_driver_sql(statement)
        return [tuple(row) for row in found]


async def test_the_ids_made_in_sql_are_the_ulids_of_their_time(database: Database) -> None:
    await TABLES.fill(database)
    made = await rows(database, "SELECT message_id FROM mp_messages ORDER BY message_id")
    assert made == [(TABLES.message_id(number),) for number in range(TABLES.messages)]


async def test_every_message_has_its_recipients_and_every_state_occurs(
    database: Database,
) -> None:
    await TABLES.fill(database)
    counted = await rows(
        database,
        "SELECT count(*), count(DISTINCT message_id), min(user_id), max(user_id)"
        " FROM mp_message_recipients",
    )
    assert counted == [(TABLES.rows, TABLES.messages, 1, max(EACH, TABLES.rows // 200))]
    states = await rows(database, "SELECT DISTINCT status FROM mp_message_recipients")
    assert {status for (status,) in states} == {"delivered", "pending", "failed", "expired"}
    indexes = [name for (name,) in await rows(database, _INDEXES[database.is_sqlite])]
    assert "mp_ix_recipients_inbox" in indexes
    assert "mp_ix_messages_outbox" in indexes


_INDEXES = {
    True: "SELECT name FROM sqlite_master WHERE type = 'index'",
    False: "SELECT indexname FROM pg_indexes",
}
