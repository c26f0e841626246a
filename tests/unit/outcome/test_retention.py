"""留多久：旧而完结的删掉，没有完结的留着；一小步一小步，一时一个进程。"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, text, update

from meeting_push.clock import now_ms
from meeting_push.errors import UnavailableError
from meeting_push.node.agreed_clock import ClockDisagreesError
from meeting_push.node_identity import NodeIdentity
from meeting_push.outcome import retention
from meeting_push.outcome.retention import EVERY_MS, LEASE_MS, Retention, Steps, read_archive
from meeting_push.settings import load_settings
from meeting_push.storage.archive import ArchiveRepository
from meeting_push.storage.database import Database
from meeting_push.storage.retention import Removed, RetentionRepository
from meeting_push.storage.tables import broadcast_states, message_recipients
from tests.support.eventually import eventually
from tests.support.old_messages import NOW, OldMessages

WEEK: dict[str, object] = {"retention_days": 7}


class Sweep(Retention):
    """``now`` 是拨得动的。"""

    def __init__(self, database: Database, name: str = "n1", /, **settings: object) -> None:
        self.now = NOW
        self.record = RetentionRepository(database)
        super().__init__(
            load_settings(**settings).retention,
            NodeIdentity(name),
            self.record,
            ArchiveRepository(database),
            self.agreed_now,
        )

    async def agreed_now(self) -> int:
        return self.now


async def test_old_messages_that_are_over_go_whole(database: Database) -> None:
    old = OldMessages(database)
    await old.direct(30, {1: "delivered", 2: "failed", 3: "expired"})
    await old.direct(8)
    await old.broadcast(20)
    young = await old.direct(6)
    removed = await Sweep(database, **WEEK).turn()
    assert removed == Removed(messages=3, recipients=4, broadcasts=1, receipts=2)
    assert await old.left() == [young]
    assert await old.rows() == {
        "messages": 1,
        "message_recipients": 1,
        "broadcasts": 0,
        "broadcast_receipts": 0,
    }


async def test_what_is_not_over_stays(database: Database) -> None:
    """有人还在等的、还在发件箱里的、没有进日志的、还没有过期的广播，失败了而还能重新投递的，
    状态不认识的。"""
    old = OldMessages(database)
    kept = [
        await old.direct(50, {1: "delivered", 2: "pending"}),
        await old.direct(49, enqueued_at=None),
        await old.broadcast(48, logged_at=None),
        await old.broadcast(47, expires_at=NOW + 1),
        await old.direct(46, {1: "failed"}, expires_at=NOW + 1),
        await old.direct(45, {1: "delivered", 2: "parked"}),  # 更新的程序写下的状态
    ]
    assert await Sweep(database, **WEEK).turn() == Removed()
    assert await old.left() == kept


async def test_archived_ones_stay(database: Database) -> None:
    """谁归档着，整条留着；拿出来了，下一遍就走。广播也是。"""
    old, sweep = OldMessages(database), Sweep(database, **WEEK)
    direct, cast = await old.direct(30, {1: "delivered", 2: "failed"}), await old.broadcast(20)
    states = [{"user_id": user, "message_id": cast, "read_at": 1} for user in (1, 2)]
    async with database.transaction() as connection:
        await connection.execute(insert(broadcast_states), states)
    await archive(database, NOW)
    assert await sweep.do_now() == Removed()
    assert await old.left() == [direct, cast]
    await archive(database, None)
    removed = await sweep.do_now()
    assert removed == Removed(messages=2, recipients=2, broadcasts=1, receipts=2)
    assert await database.scalar(select(func.count()).select_from(broadcast_states)) == 0


async def archive(database: Database, at: int | None) -> None:
    """2 号归档了全部，或（None）都拿出来。"""
    for table in (message_recipients, broadcast_states):
        await database.change(update(table).where(table.c.user_id == 2).values(archived_at=at))


async def test_one_archived_meanwhile_keeps_its_row_and_the_message(database: Database) -> None:
    """看的时候没有归档，删之前归档了。"""
    old, record = OldMessages(database), RetentionRepository(database)
    message_id = await old.direct(30, {1: "delivered", 2: "delivered"})
    pairs = await record.rows_of("recipients", [message_id], 10)
    await archive(database, NOW)
    assert await record.forget_rows("recipients", pairs) == 1
    assert await record.forget_messages([message_id]) == Removed()
    assert await old.left() == [message_id]


async def test_a_recipient_requeued_meanwhile_keeps_its_row_and_the_message(
    database: Database,
) -> None:
    """看的时候完结了，删之前有人让它重新投递。"""
    old, record = OldMessages(database), RetentionRepository(database)
    message_id = await old.direct(30, {1: "failed", 2: "delivered"})
    pairs = await record.rows_of("recipients", [message_id], 10)
    again = update(message_recipients).where(message_recipients.c.user_id == 1)
    await database.change(again.values(status="pending"))
    assert await record.forget_rows("recipients", pairs) == 1
    assert await record.forget_messages([message_id]) == Removed()
    assert await old.left() == [message_id]


async def test_pages_and_steps_end(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """一页、一步都装不下的也做得完；留着的不挡后面的。"""
    monkeypatch.setattr(retention, "PAGE", 3)
    monkeypatch.setattr(Steps, "MOST", 4)
    monkeypatch.setattr(Steps, "REST", 0)
    old = OldMessages(database)
    stays = [await old.direct(40 - n, {1: "pending"}) for n in range(4)]
    for number in range(8):
        await old.direct(30 - number, dict.fromkeys(range(1, 11), "delivered"))
    removed = await Sweep(database, **WEEK).turn()
    assert removed == Removed(messages=8, recipients=80)
    assert await old.left() == stays


async def test_zero_keeps_everything(database: Database) -> None:
    old = OldMessages(database)
    await old.direct(3_000)
    assert await Sweep(database, retention_days=0).turn() is None
    assert len(await old.left()) == 1


async def test_a_new_database_keeps_half_a_year(database: Database) -> None:
    old = OldMessages(database)
    await old.direct(181)
    stays = await old.direct(179)
    sweep = Sweep(database)
    assert await sweep.days() == 180
    await sweep.turn()
    assert await old.left() == [stays]


async def test_a_database_in_use_before_retention_keeps_everything(
    database: Database, log: list[str]
) -> None:
    """0.1 的都是：升级不许替人删东西；说一声。"""
    await database.downgrade("0016")
    old = OldMessages(database)
    await old.direct(3_000)
    await database.migrate()
    sweep = Sweep(database)
    assert await sweep.days() == 0
    assert await sweep.turn() is None
    assert any("retention_keeps_everything" in line for line in log)
    assert len(await old.left()) == 1


async def test_one_process_at_a_time(database: Database) -> None:
    first, second = Sweep(database, "n1", **WEEK), Sweep(database, "n2", **WEEK)
    assert await first.record.take("n1", NOW, NOW + LEASE_MS, EVERY_MS)
    assert await second.turn() is None
    second.now = NOW + LEASE_MS + 1  # 头一个死了
    assert await second.turn() == Removed()
    first.now = second.now
    assert await first.turn() is None  # 刚做过
    first.now += EVERY_MS
    assert await first.turn() == Removed()


async def test_who_lost_its_lease_stops(database: Database) -> None:
    old = OldMessages(database)
    await old.direct(30)
    sweep = Sweep(database, **WEEK)
    assert await sweep.record.take("somebody", NOW, NOW + LEASE_MS, EVERY_MS)
    assert await sweep._sweep(NOW, 7) == Removed()
    assert len(await old.left()) == 1


async def test_a_clock_that_disagrees_removes_nothing(database: Database) -> None:
    """LESSONS 30：收不回来的事只在各家的钟一致时做。"""
    old = OldMessages(database)
    await old.direct(30)
    sweep = Sweep(database, **WEEK)

    async def disagrees() -> int:
        raise ClockDisagreesError("an hour ahead", cause="clock")

    sweep._agreed = disagrees
    with pytest.raises(ClockDisagreesError):
        await sweep.turn()
    assert len(await old.left()) == 1


async def test_the_outlook_removes_nothing(database: Database) -> None:
    old = OldMessages(database)
    await old.direct(30, {1: "delivered", 2: "delivered"})
    await old.direct(29, {1: "pending"})
    await old.broadcast(20)
    outlook = await Sweep(database).outlook(NOW, 7)
    assert outlook.would_go == Removed(messages=2, recipients=2, broadcasts=1, receipts=2)
    assert outlook.stay == 1
    assert len(await old.left()) == 3


async def test_writers_are_not_kept_waiting(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """清理一大堆的时候，收下新的不等它做完。"""
    monkeypatch.setattr(Steps, "REST", 0)
    old = OldMessages(database)
    for number in range(40):
        await old.direct(100 - number, dict.fromkeys(range(1, 51), "delivered"))
    sweep = asyncio.create_task(Sweep(database, **WEEK).turn())
    young = 0
    while not sweep.done():
        await asyncio.wait_for(old.direct(1), 5)
        young += 1
    assert await sweep == Removed(messages=40, recipients=2_000)
    assert young > 1
    assert len(await old.left()) == young


def test_steps_shrink_when_they_take_long_and_grow_when_they_do_not() -> None:
    async def run(target_s: float) -> int:
        steps = Steps(target_s)
        for _ in range(20):
            await steps.do(nothing)
        return steps.rows

    async def nothing() -> int:
        return 0

    assert asyncio.run(run(-1)) == Steps.LEAST
    assert asyncio.run(run(10_000)) == Steps.MOST


async def test_the_file_becomes_smaller_when_much_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """新建的 SQLite 文件：空出来的页多了，还给文件系统。"""
    monkeypatch.setattr(retention, "SHRINK_FROM_PAGES", 10)
    monkeypatch.setattr(Steps, "REST", 0)
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    await database.migrate()
    old = OldMessages(database)
    for number in range(60):
        await old.direct(60 - number / 10, dict.fromkeys(range(1, 101), "delivered"))
    sweep = Sweep(database, **WEEK)
    _, before = await sweep.record.free_pages()
    await sweep.turn()
    free, after = await sweep.record.free_pages()
    await database.dispose()
    assert after < before * 3 / 4
    assert free * 4 < max(after, 40)


async def test_a_file_that_can_not_shrink_is_left_alone(database: Database) -> None:
    """0.1 建的文件、PostgreSQL：不问也不做。"""
    if database.is_sqlite:
        async with database.connect() as connection:
            await connection.exec_driver_sql("PRAGMA auto_vacuum = NONE")
            await connection.exec_driver_sql("VACUUM")
    assert await RetentionRepository(database).free_pages() == (0, 0)


# ── 留底 ────────────────────────────────────────────────────────────────────


async def everything(database: Database) -> dict[str, list[tuple[object, ...]]]:
    found: dict[str, list[tuple[object, ...]]] = {}
    for table in ("messages", "message_recipients", "broadcasts", "broadcast_receipts"):
        rows = await database.rows(text(f"SELECT * FROM mp_{table} ORDER BY 1, 2"))
        found[table] = [tuple(row) for row in rows]
    return found


def only_file(folder: Path) -> Path:
    [file] = folder.iterdir()
    assert file.stat().st_mode & 0o077 == 0  # 只有主人读得到
    return file


async def put_back(database: Database, folder: Path) -> None:
    for rows in read_archive(await asyncio.to_thread(only_file, folder)):
        await ArchiveRepository(database).restore(rows)


async def test_what_goes_is_archived_first_and_can_be_put_back(
    database: Database, tmp_path: Path
) -> None:
    old = OldMessages(database)
    for number in range(3):
        await old.direct(30 + number, dict.fromkeys(range(1, 400), "delivered"))
    await old.broadcast(20)
    before = await everything(database)
    await Sweep(database, retention_archive_dir=tmp_path / "kept", **WEEK).turn()
    assert await old.left() == []
    for _ in range(2):  # 放回两遍，与一遍一样
        await put_back(database, tmp_path / "kept")
        assert await everything(database) == before


async def test_nothing_is_removed_while_the_archive_can_not_be_written(
    database: Database, tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("这里是一个文件")
    old = OldMessages(database)
    await old.direct(30)
    with pytest.raises(UnavailableError) as refused:
        await Sweep(database, retention_archive_dir=tmp_path / "kept", **WEEK).turn()
    assert refused.value.cause == "archive"
    assert len(await old.left()) == 1


async def test_an_erased_person_does_not_come_back(database: Database, tmp_path: Path) -> None:
    """他收到的不放回；他写的只剩一条抹掉了的。"""
    old = OldMessages(database)
    await old.direct(30, {1: "delivered", 2: "delivered"})
    await old.direct(29, {1: "delivered"}, sender_id=2, sender_name="bob")
    await Sweep(database, retention_archive_dir=tmp_path / "kept", **WEEK).turn()
    await database.change(
        text(
            "INSERT INTO mp_erased_people (user_id, requested_at, passes, holder, lease_until)"
            " VALUES (2, 0, 3, '', 0)"
        )
    )
    await put_back(database, tmp_path / "kept")
    found = await everything(database)
    assert [row[:2][1] for row in found["message_recipients"]] == [1, 1]
    assert "bob" not in str(found["messages"])
    assert "message_erased" in str(found["messages"])


async def test_the_loop_does_a_pass_by_itself(database: Database) -> None:
    old = OldMessages(database, now_ms())
    await old.direct(30)
    sweep = Sweep(database, **WEEK)
    sweep.now = now_ms()
    running = asyncio.create_task(sweep.run())

    async def passed() -> bool:
        return bool(sweep.passes)

    try:
        await eventually(passed, 60)
    finally:
        running.cancel()
        await asyncio.wait([running])
    assert await old.left() == []
