"""撤回送了的：两种数据库、两种 Redis 上，记录与信箱都不留下正文。"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text

from meeting_push.app import MeetingPush
from meeting_push.clock import now_ms
from meeting_push.deliver.offline_message_queue import Delivery
from meeting_push.errors import DatabaseUnavailableError
from meeting_push.model import USER_ROLE, Accepted, Principal, Sender
from meeting_push.protocol.envelope import new_message
from tests.support.eventually import eventually
from tests.support.node import node
from tests.support.redis_server import RedisServer

ALICE, BOB, EVE = Sender(1, "alice"), 2, 3
BY_ALICE = Principal(1, USER_ROLE, issued_at=0, expires_at=now_ms() + 3_600_000)


@pytest.fixture
async def push(
    redis_server: RedisServer, database_url: str, tmp_path: Path, key_prefix: str
) -> AsyncIterator[MeetingPush]:
    async with node(redis_server.url, database_url, tmp_path, key_prefix=key_prefix) as one:
        yield one


async def sent(push: MeetingPush, *to: int) -> Accepted:
    accepted = await push.messages.send_message_to_multiple(
        ALICE, to, "a title", "a content", data={"a": "datum"}
    )

    async def there() -> bool:
        held = [await push.mailbox.message_ids(each) for each in to]
        return all(accepted.message_id in ids for ids in held)

    await eventually(there)
    return accepted


async def test_the_text_is_gone_from_both_stores(push: MeetingPush) -> None:
    one = await sent(push, BOB)
    await push.messages.cancel_message(one.message_id, BY_ALICE)
    database = push._rooms.record.database
    row = await database.row(text("SELECT title, content, data FROM mp_messages"))
    assert row is not None
    assert tuple(row) == ("", "", None)
    [held] = await push.mailbox.get_offline_messages(BOB)
    assert (held.tail.message_id, held.tail.title, held.tail.content) == (one.message_id, "", "")


async def test_a_body_made_again_from_the_record_is_the_tombstone(push: MeetingPush) -> None:
    one = await sent(push, BOB)
    await push.messages.cancel_message(one.message_id, BY_ALICE)
    keys, lean = push._rooms.bus.redis.keys, push._rooms.bus.redis.lean
    await lean.execute("UNLINK", keys.message_body(one.message_id))
    tails = await push.mailbox.tails([one.message_id])
    frame = msgspec.json.decode(new_message(7, 0, tails[one.message_id]))
    assert (frame["type"], frame["seq"], frame["message_id"]) == ("withdrawn", 7, one.message_id)


async def test_what_was_still_on_its_way_does_not_arrive_afterwards(push: MeetingPush) -> None:
    """入队的人手里还有一份：撤回之后才投递。"""
    one = await sent(push, BOB)
    tails = await push.mailbox.tails([one.message_id])
    late = Delivery(
        message_id=one.message_id,
        tail=tails[one.message_id],
        recipient_ids=(BOB, EVE),
        priority=0,
        expires_at=one.created_at + 3_600_000,
    )
    users = [BOB, EVE]
    await push.mailbox.withdrawals.withdraw(one.message_id, b'"message_id":"x"}', users)
    before = [await push.mailbox.boxes.entries(each) for each in users]
    await push.mailbox.store_bodies([(one.message_id, b'"message_id":"late"}', 0, late.expires_at)])
    await push.mailbox.deliver([late])
    assert [await push.mailbox.boxes.entries(each) for each in users] == before
    assert (await push.mailbox.tails([one.message_id])) == tails


async def test_some_had_confirmed_it_and_the_event_says_how_many(push: MeetingPush) -> None:
    events = push._rooms.record.database.events
    events.subscribe("url:k", ["message.withdrawn"], lambda: None)
    one = await sent(push, BOB, EVE)
    await push.confirmation.confirm(BOB, [one.message_id], now_ms())

    async def acked() -> bool:
        counts, _ = await push.confirmation.get_message_delivery_status(one.message_id)
        return counts.delivered == 1

    await eventually(acked)
    await push.messages.cancel_message(one.message_id, BY_ALICE)
    await push.messages.cancel_message(one.message_id, BY_ALICE)
    counts, page = await push.confirmation.get_message_delivery_status(one.message_id)
    assert (counts.delivered, counts.withdrawn, counts.total) == (1, 1, 2)
    assert {each.user_id: each.status.value for each in page.items} == {
        BOB: "delivered",
        EVE: "withdrawn",
    }
    database = push._rooms.record.database
    rows = await database.rows(text("SELECT kind, items FROM mp_events_out"))
    [(kind, items)] = rows
    [[message_id, sender, at, withdrawn, delivered]] = msgspec.json.decode(items)
    assert (kind, message_id, sender) == ("message.withdrawn", one.message_id, 1)
    assert (withdrawn, delivered) == (1, 1)
    assert at >= one.created_at


async def test_a_late_ack_counts_for_nothing(push: MeetingPush) -> None:
    one = await sent(push, BOB)
    await push.messages.cancel_message(one.message_id, BY_ALICE)
    await push.confirmation.confirm(BOB, [one.message_id], now_ms())

    async def gone() -> bool:
        return await push.mailbox.get_offline_message_count(BOB) == 0

    await eventually(gone)
    counts, _ = await push.confirmation.get_message_delivery_status(one.message_id)
    assert (counts.delivered, counts.withdrawn) == (0, 1)
    assert sum(push.confirmation.confirmed.values()) == 0
    statistics = await push.confirmation.get_user_delivery_statistics(BOB)
    assert (statistics.total.withdrawn, statistics.total.rate) == (1, None)


async def test_withdrawing_again_after_half_of_it_failed_is_done(
    push: MeetingPush, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis 里换成了墓碑，SQL 没有提交：再来一次。"""
    one = await sent(push, BOB)
    record = push.messages.withdrawal._record

    async def away(_message_id: str, _now: int) -> None:
        raise DatabaseUnavailableError("away")

    with monkeypatch.context() as patched:
        patched.setattr(record, "withdraw", away)
        with pytest.raises(DatabaseUnavailableError):
            await push.messages.cancel_message(one.message_id, BY_ALICE)
    await push.messages.cancel_message(one.message_id, BY_ALICE)
    counts, _ = await push.confirmation.get_message_delivery_status(one.message_id)
    assert counts.withdrawn == 1
    assert await push.mailbox.message_ids(BOB) == [one.message_id]


async def test_what_was_cancelled_in_time_stays_cancelled(
    push: MeetingPush, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = now_ms() + 3_600_000
    one = await push.messages.send_message(ALICE, BOB, "t", "c", deliver_at=due)
    await push.messages.cancel_message(one.message_id, BY_ALICE)
    monkeypatch.setattr(push.messages.withdrawal, "_clock", lambda: due + 1)
    await push.messages.cancel_message(one.message_id, BY_ALICE)
    counts, _ = await push.confirmation.get_message_delivery_status(one.message_id)
    assert (counts.withdrawn, counts.failed) == (0, 1)
    assert await push.mailbox.message_ids(BOB) == []
