"""SQLite 的热路：原子、不与普通的事务互锁、检查点自己会做。"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from loguru import logger

from meeting_push.errors import DatabaseUnavailableError, InvalidInputError
from meeting_push.storage import sqlite_writer
from meeting_push.storage.database import Database
from meeting_push.storage.sqlite import Statement
from meeting_push.storage.sqlite_writer import SqliteWriter
from tests.support.eventually import eventually

_INSERT = "INSERT INTO t VALUES (?, ?)"
#: WAL 多长就做检查点：比真的小，一个测试不必写几百兆。
_LONG = 8 * 2**20


def insert(key: int, value: object = None) -> Statement:
    return _INSERT, (key, value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "test.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)")
    connection.close()
    return path


@pytest.fixture
async def database(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    monkeypatch.setattr(sqlite_writer, "CHECKPOINT_BYTES", _LONG)
    database = Database(f"sqlite:///{path}", timeout_s=5)
    yield database
    await database.dispose()


async def count(database: Database) -> int:
    async with database.connect() as connection:
        return int((await connection.exec_driver_sql("SELECT count(*) FROM t")).scalar_one())


async def test_each_statement_says_how_many_rows_it_changed(database: Database) -> None:
    changes = [insert(1), insert(2), ("UPDATE t SET v = ?", (0,)), ("DELETE FROM t", ())]
    assert await database.write_sqlite(changes) == [1, 1, 2, 2]


async def test_a_failing_statement_leaves_nothing_behind(database: Database) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        await database.write_sqlite([insert(1), insert(1)])
    assert await count(database) == 0
    await database.write_sqlite([insert(1)])
    assert await count(database) == 1


@pytest.mark.parametrize("value", [2**63, "\ud800"])
async def test_a_value_that_can_not_be_stored_is_bad_input(
    database: Database, value: object
) -> None:
    with pytest.raises(InvalidInputError):
        await database.write_sqlite([insert(1), insert(2, value)])
    assert await count(database) == 0


async def test_it_takes_turns_with_ordinary_transactions(database: Database) -> None:
    async def ordinary(key: int) -> None:
        async with database.transaction() as connection:
            await connection.exec_driver_sql(_INSERT, (key, None))

    await asyncio.gather(
        *(ordinary(key) for key in range(0, 40, 2)),
        *(database.write_sqlite([insert(key)]) for key in range(1, 40, 2)),
    )
    assert await count(database) == 40


async def test_a_lock_held_elsewhere_is_unavailable(path: Path) -> None:
    database = Database(f"sqlite:///{path}", timeout_s=0.1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailableError):
        await database.write_sqlite([insert(1)])
    other.execute("ROLLBACK")
    other.close()
    await database.write_sqlite([insert(1)])
    await database.dispose()


async def test_it_opens_again_after_dispose(database: Database) -> None:
    await database.write_sqlite([insert(1)])
    await database.dispose()
    await database.write_sqlite([insert(2)])
    assert await count(database) == 2


async def test_a_long_log_is_checkpointed_beside_the_writers(
    database: Database, path: Path
) -> None:
    chunk = bytes(_LONG // 8)
    for key in range(10):
        await database.write_sqlite([insert(key, chunk)])
    await eventually(lambda: path.stat().st_size > _LONG, 10)


async def test_a_log_once_long_is_not_checkpointed_at_every_commit(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """文件不会变小：凭它的大小，从此每次提交都做一遍。"""
    rounds: list[None] = []
    beside = SqliteWriter._checkpoint_beside

    def counted(writer: SqliteWriter) -> None:
        rounds.append(None)
        beside(writer)

    monkeypatch.setattr(SqliteWriter, "_checkpoint_beside", counted)
    await database.write_sqlite([insert(0, bytes(2 * _LONG))])
    await eventually(lambda: bool(rounds), 10)
    for key in range(1, 200):
        await database.write_sqlite([insert(key)])
    assert len(rounds) <= 2


async def test_the_log_is_written_again_from_its_head(database: Database, path: Path) -> None:
    wal = path.with_name(path.name + "-wal")
    chunk = bytes(_LONG // 8)
    for key in range(80):
        await database.write_sqlite([insert(key, chunk)])
    assert wal.stat().st_size < 9 * _LONG  # 写了 10 倍；搬的那一边慢了，也不一直长


async def test_a_reader_sees_what_is_committed_and_takes_no_turn(database: Database) -> None:
    await database.write_sqlite([insert(1)])
    async with database.transaction():
        assert await database.read_sqlite(("SELECT count(*) FROM t", ())) == [(1,)]


async def test_a_checkpoint_that_fails_is_said(database: Database, path: Path) -> None:
    warnings: list[str] = []
    sink = logger.add(lambda m: warnings.append(m.record["extra"]["event"]), level="WARNING")
    try:
        await database.write_sqlite([insert(0)])
        _put_a_folder_in_place_of(path)  # 写者的连接还开着，新的连接打不开
        await database.write_sqlite([insert(1, bytes(2 * _LONG))])
        await eventually(lambda: "sqlite_checkpoint_failed" in warnings)
    finally:
        logger.remove(sink)


def _put_a_folder_in_place_of(path: Path) -> None:
    path.rename(path.with_name("away.db"))
    path.mkdir()


async def test_looking_at_the_log_leaves_the_locks_of_sqlite(
    database: Database, path: Path
) -> None:
    """没有锁，别的进程打开这个库就截短 WAL-index，我们映着它的线程死于 SIGBUS。"""
    for key in range(3):
        await database.write_sqlite([insert(key)])
        assert _locked(path.with_name(f"{path.name}-shm"))


def _locked(path: Path) -> bool:
    held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any(one[1] == "POSIX" and one[-3].endswith(f":{path.stat().st_ino}") for one in held)
