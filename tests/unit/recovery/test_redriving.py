"""E3、E12：重新投递走得完、记得走到哪里；掉队检查不扫整张表；发件箱不扫两遍。"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import select, text, update
from ulid import ULID

from meeting_push.app import MeetingPush
from meeting_push.clock import now_ms
from meeting_push.errors import DatabaseUnavailableError
from meeting_push.model import Message, Outgoing, Sender
from meeting_push.recovery import reconciler
from meeting_push.recovery.page_walk import MOST_ROWS, PageWalk
from meeting_push.storage.database import Database
from meeting_push.storage.fleet import Generation
from meeting_push.storage.messages import MessageRepository
from meeting_push.storage.outcomes import UndeliveredRepository
from meeting_push.storage.tables import messages
from tests.support.eventually import eventually

from .nodes import StartNode

BOB = 2
DAY_MS = 86_400_000
_m = messages.c


async def store(
    database: Database,
    count: int,
    *,
    days_ago: int = 0,
    live: bool = True,
    enqueued: bool = True,
) -> list[str]:
    """``count`` 条，各有一个 pending 的收件人。"""
    then = now_ms() - days_ago * DAY_MS
    made = [
        Message(
            message_id=str(ULID.from_timestamp((then + number) / 1000)),
            message_type="message",
            priority=0,
            title="t",
            content="c",
            sender=Sender(1, "a"),
            timestamp=then + number,
            expires_at=now_ms() + DAY_MS if live else then + number + 1,
        )
        for number in range(count)
    ]
    repository = MessageRepository(database)
    await repository.store([Outgoing(message, [BOB]) for message in made])
    ids = [message.message_id for message in made]
    if enqueued:
        await repository.mark_enqueued(ids, then)
    return ids


async def in_outbox(database: Database) -> set[str]:
    async with database.connect() as connection:
        rows = await connection.scalars(select(_m.message_id).where(_m.enqueued_at.is_(None)))
        return set(rows.all())


# ── 页 ──────────────────────────────────────────────────────────────────────


async def test_e3_a_page_that_is_too_slow_becomes_smaller_until_it_fits() -> None:
    walk, sizes = PageWalk(), list[int]()

    async def work(rows: int) -> None:
        sizes.append(rows)
        if rows > 3:
            raise DatabaseUnavailableError("statement timeout", cause="timeout")

    for _ in range(6):
        with contextlib.suppress(DatabaseUnavailableError):
            await walk.page(work)
    assert sizes[:5] == [500, 125, 31, 7, 1]


async def test_e3_quick_pages_grow_up_to_a_bound() -> None:
    walk = PageWalk()
    for _ in range(12):
        await walk.page(lambda _: asyncio.sleep(0))
    assert walk.rows == MOST_ROWS


async def test_e3_a_page_costs_the_same_however_many_old_messages_there_are(
    database: Database,
) -> None:
    """从前的一页要越过全部过期的才凑得齐：五百万条旧的，就超过时限。"""
    old = await store(database, 30, days_ago=300, live=False)
    await store(database, 3)
    assert await UndeliveredRepository(database).page_end("", 10) == old[9]


async def test_e3_only_what_is_live_and_pending_is_reopened(database: Database) -> None:
    await store(database, 5, days_ago=300, live=False)
    live = await store(database, 5)
    repository = UndeliveredRepository(database)
    end = await repository.page_end("", 100)
    assert end is not None
    assert await repository.reopen("", end, now_ms()) == 5
    assert await in_outbox(database) == set(live)


async def test_e3_a_row_somebody_has_locked_is_passed_over(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has no row locks")
    locked, *others = await store(database, 3)
    repository = UndeliveredRepository(database)
    async with database.transaction() as connection:
        await connection.execute(
            update(messages).where(_m.message_id == locked).values(title="held")
        )
        assert await asyncio.wait_for(repository.reopen("", others[-1], now_ms()), 5) == 2
    assert await in_outbox(database) == set(others)


# ── 恢复 ─────────────────────────────────────────────────────────────────────


class Slow(UndeliveredRepository):
    """一页超过 ``most`` 条就超时，像一个太慢的库；记下各页从哪里开始。"""

    most = 7
    starts: list[str]

    async def reopen(self, after: str, upto: str, now: int) -> int:
        async with self._database.connect() as connection:
            within = select(_m.message_id).where(_m.message_id > after, _m.message_id <= upto)
            count = len((await connection.scalars(within)).all())
        self.starts.append(after)
        if count > self.most:
            raise DatabaseUnavailableError("statement timeout", cause="timeout")
        return await super().reopen(after, upto, now)


def slow(push: MeetingPush) -> Slow:
    one = Slow(push._rooms.record.database)
    one.starts = []
    push._rooms.recovery.reconciler._undelivered = one
    return one


async def test_e3_re_driving_finishes_on_a_database_too_slow_for_its_first_page(
    start_node: StartNode,
) -> None:
    async with start_node() as push:
        await store(push._rooms.record.database, 40, days_ago=200, live=False)
        waiting = await store(push._rooms.record.database, 12)
        slow(push)
        await push._rooms.bus.redis.lean.execute("FLUSHALL")

        async def back() -> bool:
            held = {one.tail.message_id for one in await push.mailbox.get_offline_messages(BOB)}
            return held == set(waiting)

        await eventually(back, 30)

        async def finished() -> bool:
            row = await push._rooms.recovery.reconciler._generations.read()
            return row is not None and row.cursor is None

        await eventually(finished, 30)


async def test_e3_the_next_try_goes_on_where_the_last_one_stopped(start_node: StartNode) -> None:
    async with start_node(reconcile_interval_s=60) as push:
        ids = await store(push._rooms.record.database, 20)
        one = slow(push)
        one.most = 1_000
        row = Generation(1, 0, ids[9], push._rooms.recovery.reconciler._node.id, now_ms() + 60_000)
        await push._rooms.recovery.reconciler._redrive(row)
        assert min(one.starts) == ids[9]


async def test_e3_old_pages_that_can_not_be_read_do_not_block_the_recovery(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """旧快照里有结局的移不出来：多收一遍同一个 id，好过谁也收不到。"""

    async def never(*_: object) -> list[Any]:
        raise DatabaseUnavailableError("statement timeout", cause="timeout")

    async with start_node(reconcile_interval_s=60) as push:
        await store(push._rooms.record.database, 3)
        monkeypatch.setattr(push._rooms.recovery.reconciler._undelivered, "finished", never)
        await asyncio.wait_for(push._rooms.recovery.reconciler._remove_finished(0), 20)


# ── 掉队的 ───────────────────────────────────────────────────────────────────


class Watched(UndeliveredRepository):
    """记下每一遍看了哪一段。"""

    spans: list[tuple[str, str]]

    async def waiting(self, after: Any, upto: str, *rest: Any) -> list[tuple[str, int]]:
        self.spans.append((after[0], upto))
        return await super().waiting(after, upto, *rest)


async def test_e3_the_straggler_check_walks_on_instead_of_starting_again(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "STRAGGLER_BUDGET_S", 0)
    async with start_node(straggler_after_s=0.001, relay_grace_s=3600) as push:
        await push._supervisor.stop()  # 由测试来推动
        ids = await store(push._rooms.record.database, 9, days_ago=1)
        watched = Watched(push._rooms.record.database)
        watched.spans = []
        one = push._rooms.recovery.reconciler
        one._undelivered, one._walk.rows = watched, 3
        monkeypatch.setattr(one._walk, "_adapt", lambda _: None)
        found = [await one.look_for_stragglers() for _ in range(3)]
        assert found == [3, 3, 3]
        assert [upto for _, upto in watched.spans] == [ids[2], ids[5], ids[8]]


async def test_e3_a_straggler_among_many_recipients_of_one_message_is_found(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """一页看到一半的消息，下一页接着看它其余的收件人。"""
    monkeypatch.setattr(reconciler, "STRAGGLER_ROWS", 2)
    async with start_node(straggler_after_s=0.001, relay_grace_s=3600) as push:
        await push.messages.send_message_to_multiple(Sender(1, "a"), range(2, 7), "t", "c")

        async def there() -> bool:
            return await push.mailbox.get_offline_message_count(6) == 1

        await eventually(there)
        await push._rooms.messages.relay.mark()
        await push._rooms.bus.redis.client.delete(
            push._rooms.bus.redis.keys.mailbox(6), push._rooms.bus.redis.keys.message_log(6)
        )

        async def found() -> bool:  # 启动时的那一遍可能正走到一半，先走完的是它
            await push._rooms.recovery.reconciler.look_for_stragglers()
            return push._rooms.recovery.reconciler.statistics.stragglers >= 1

        await eventually(found)


# ── 发件箱 ───────────────────────────────────────────────────────────────────


async def test_e12_two_processes_do_not_sweep_the_same_rows(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Counter[str]()
    outbox = MessageRepository.outbox

    async def noted(*given: Any) -> list[Outgoing]:
        rows = await outbox(*given)
        read.update(row.message.message_id for row in rows)
        return rows

    monkeypatch.setattr(MessageRepository, "outbox", noted)
    monkeypatch.setattr("meeting_push.assembly.message_path.TURN_MS", 600_000)  # 停得再久也不过期
    async with start_node() as first, start_node() as second:
        database = first._rooms.record.database
        waiting = await store(database, 1_200, enqueued=False)
        for push in (first, second, first, second):
            push._rooms.messages.relay.hurry()

        async def empty() -> bool:
            return not await in_outbox(database)

        await eventually(empty, 60)
        assert read == Counter(waiting)
        for push in (first, second):
            assert await push._rooms.messages.relay.sweep(0) == 0


async def test_e12_the_turn_of_a_dead_process_passes_on(start_node: StartNode) -> None:
    async with start_node() as push:
        await push._rooms.bus.redis.lean.execute(
            "SET", push._rooms.bus.redis.keys.outbox_turn, "dead", "PX", 300
        )
        await store(push._rooms.record.database, 1)
        async with push._rooms.record.database.transaction() as connection:
            await connection.execute(text("UPDATE mp_messages SET enqueued_at = NULL"))
        push._rooms.messages.relay.hurry()

        async def empty() -> bool:
            return not await in_outbox(push._rooms.record.database)

        await eventually(empty)
