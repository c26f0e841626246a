"""同来的写共用一个事务，各自仍是全成或全不成。"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meeting_push.errors import InvalidInputError
from meeting_push.storage.database import Database
from meeting_push.storage.sqlite import Statement

_INSERT = "INSERT INTO t VALUES (?)"
_CLAIM = "INSERT INTO t VALUES (?) ON CONFLICT DO NOTHING"


def insert(key: int) -> Statement:
    return _INSERT, (key,)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    path = tmp_path / "test.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (k INTEGER PRIMARY KEY)")
    connection.close()
    database = Database(f"sqlite:///{path}", timeout_s=5)
    yield database
    await database.dispose()


async def keys(database: Database) -> list[int]:
    return [key for (key,) in await database.read_sqlite(("SELECT k FROM t ORDER BY k", ()))]


def transactions(database: Database) -> int:
    return database.figures.waits.count


async def test_those_who_wait_share_a_transaction(database: Database) -> None:
    await asyncio.gather(*(database.write_sqlite([insert(key)]) for key in range(5)))
    assert await keys(database) == [0, 1, 2, 3, 4]
    assert transactions(database) == 1


async def test_one_who_fails_harms_none_of_the_others(database: Database) -> None:
    outcomes = await asyncio.gather(
        database.write_sqlite([insert(1)]),
        database.write_sqlite([insert(2), insert(1)]),
        database.write_sqlite([insert(2**63)]),
        database.write_sqlite([insert(3)]),
        return_exceptions=True,
    )
    assert [type(each) for each in outcomes] == [
        list,
        sqlite3.IntegrityError,
        InvalidInputError,
        list,
    ]
    assert await keys(database) == [1, 3]


async def test_a_claim_already_taken_leaves_only_its_own_writes_out(database: Database) -> None:
    await database.write_sqlite([insert(1)])
    claims = [(_CLAIM, (1,)), insert(2)], [(_CLAIM, (3,)), insert(4)], [(_CLAIM, (3,)), insert(5)]
    changed = await asyncio.gather(*(database.write_sqlite(each, 1) for each in claims))
    assert changed == [[0], [1, 1], [0]]
    assert await keys(database) == [1, 3, 4]


async def test_the_patient_go_with_the_next_who_is_not(database: Database) -> None:
    patient = asyncio.create_task(database.write_sqlite([insert(1)], patient=True))
    await asyncio.sleep(0)
    await database.write_sqlite([insert(2)])
    await patient
    assert transactions(database) == 1


async def test_the_patient_go_alone_when_nobody_comes(database: Database) -> None:
    await database.write_sqlite([insert(1)], patient=True)
    assert await keys(database) == [1]


async def test_who_left_before_his_turn_is_not_written(database: Database) -> None:
    async with database.transaction():
        left = asyncio.create_task(database.write_sqlite([insert(1)]))
        stays = asyncio.create_task(database.write_sqlite([insert(2)]))
        await asyncio.sleep(0)
        left.cancel()
    await stays
    assert await keys(database) == [2]


async def test_what_came_before_the_end_is_written(database: Database) -> None:
    last = asyncio.create_task(database.write_sqlite([insert(1)], patient=True))
    await asyncio.sleep(0)
    await database.dispose()
    await last
    assert await keys(database) == [1]
