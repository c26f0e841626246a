"""出门的事件与它们说的事在同一个事务里。"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select
from ulid import ULID

from meeting_push.model import Message, Outgoing, Sender
from meeting_push.storage.broadcasts import BroadcastRepository
from meeting_push.storage.database import Database
from meeting_push.storage.event_outbox import (
    ACCEPTED,
    DELIVERED,
    EXPIRED,
    FAILED,
    FIELDS,
    READ,
    ROW_EVENTS,
)
from meeting_push.storage.inbox import InboxRepository
from meeting_push.storage.messages import MessageRepository
from meeting_push.storage.operations_tables import events_out
from meeting_push.storage.outcomes import OutcomeRepository
from meeting_push.storage.recipients import RecipientRepository, cancel

NOW = 1_800_000_000_000


@pytest.fixture
def told(database: Database) -> Database:
    """两个接收者，一个什么都要，一个只要送达的。"""
    database.events.subscribe("all", list(FIELDS), lambda: None)
    database.events.subscribe("some", [DELIVERED], lambda: None)
    return database


def a_message(**changes: Any) -> Message:
    fields: dict[str, Any] = {
        "message_id": str(ULID()),
        "message_type": "message",
        "priority": 3,
        "title": "标题",
        "content": "内容",
        "sender": Sender(id=7, name="爱丽丝"),
        "timestamp": NOW,
        "expires_at": NOW + 1000,
    }
    return Message(**fields | changes)


async def rows(database: Database, receiver: str = "all") -> list[tuple[str, list[Any]]]:
    statement = (
        select(*(events_out.c[one] for one in ("kind", "items", "event_count")))
        .where(events_out.c.receiver == receiver)
        .order_by(events_out.c.id)
    )
    found = [(kind, json.loads(items), n) for kind, items, n in await database.rows(statement)]
    assert all(len(items) == n for _, items, n in found)
    return [(kind, items) for kind, items, _ in found]


async def accept(database: Database, *user_ids: int, **changes: Any) -> Message:
    message = a_message(**changes)
    await MessageRepository(database).store([Outgoing(message, user_ids)])
    return message


def delivered(message: Message, *user_ids: int) -> Sequence[tuple[str, int, int, int]]:
    return [(message.message_id, user_id, NOW + 1, NOW + 2) for user_id in user_ids]


async def test_an_accepted_message_is_told_with_it(told: Database) -> None:
    message = await accept(told, 1, 2)
    [(kind, [item])] = await rows(told)
    assert kind == ACCEPTED
    assert dict(zip(FIELDS[kind], item, strict=True)) == {
        "message_id": message.message_id,
        "sender_id": 7,
        "sender_name": "爱丽丝",
        "message_type": "message",
        "priority": 3,
        "recipient_count": 2,
        "created_at": NOW,
        "deliver_at": None,
        "expires_at": NOW + 1000,
    }


async def test_a_group_of_messages_is_one_row(told: Database) -> None:
    some = [Outgoing(a_message(), (1,)) for _ in range(ROW_EVENTS + 1)]
    await MessageRepository(told).store(some)
    assert [len(items) for _, items in await rows(told)] == [ROW_EVENTS, 1]


async def test_rolled_back_is_not_told(told: Database) -> None:
    async def give_up() -> None:
        async with told.transaction() as connection:
            await MessageRepository(told).insert(connection, [Outgoing(a_message(), (1,))])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await give_up()
    assert await rows(told) == []


async def test_a_delivery_is_told_once_and_to_each_that_wants_it(told: Database) -> None:
    message, recipients = await accept(told, 1, 2, 3), RecipientRepository(told)
    await recipients.record_delivered(delivered(message, 1, 2))
    await recipients.record_delivered(delivered(message, 2, 3))  # 2 再确认一次
    await recipients.record_delivered(delivered(message, 9))  # 不是收件人
    expected = [(DELIVERED, [list(one)]) for one in delivered(message, 3)]
    expected.insert(0, (DELIVERED, [list(one) for one in delivered(message, 1, 2)]))
    assert (await rows(told))[1:] == expected
    assert await rows(told, "some") == expected


async def test_a_failure_is_told_and_a_late_ack_after_it(told: Database) -> None:
    message = await accept(told, 1)
    pairs = [(message.message_id, 1)]
    await OutcomeRepository(told).record_failed(pairs, "no_ack", NOW + 5)
    await OutcomeRepository(told).record_failed(pairs, "no_ack", NOW + 6)
    await RecipientRepository(told).record_delivered(delivered(message, 1))
    kinds = [kind for kind, _ in await rows(told)]
    assert kinds == [ACCEPTED, FAILED, DELIVERED]
    assert (await rows(told))[1][1] == [[message.message_id, 1, NOW + 5, "no_ack", None]]


async def test_expired_and_set_aside_and_cancelled_are_told(told: Database) -> None:
    late, broken = await accept(told, 1), await accept(told, 2)
    planned = await accept(told, 3, deliver_at=NOW + 10**6)
    await OutcomeRepository(told).record_expired([late.message_id], NOW + 2)
    await MessageRepository(told).set_aside([broken.message_id], "unreadable", NOW + 3)
    async with told.transaction() as connection:
        await cancel(connection, told.events, planned.message_id, now=NOW + 4, due_after=NOW)
    found = (await rows(told))[3:]
    assert found[0] == (EXPIRED, [[late.message_id, 1, NOW + 2, None]])
    assert [(kind, item[0], item[3]) for kind, [item] in found[1:]] == [
        (FAILED, broken.message_id, "unreadable"),
        (FAILED, planned.message_id, "cancelled"),
    ]


async def test_reading_is_told_once(told: Database) -> None:
    message, inbox = await accept(told, 1), InboxRepository(told, clock=lambda: NOW + 9)
    await inbox.mark_read(1, [message.message_id])
    await inbox.mark_read_upto(1, message.message_id)
    assert (await rows(told))[1:] == [(READ, [[message.message_id, 1, NOW + 9]])]


async def test_a_broadcast_is_told_and_each_who_acked_it_once(told: Database) -> None:
    message, broadcasts = a_message(), BroadcastRepository(told)
    async with told.transaction() as connection:
        await broadcasts.insert(connection, message)
    for users in ((1, 2), (2, 3)):
        await broadcasts.record_delivered([(message.message_id, one, NOW + 1) for one in users])
    found = await rows(told)
    assert found[0][1][0][5] is None  # 多少人不得而知
    assert [[item[1] for item in items] for _, items in found[1:]] == [[1, 2], [3]]


async def test_nobody_wants_it_nothing_is_written(database: Database) -> None:
    message = await accept(database, 1)
    await RecipientRepository(database).record_delivered(delivered(message, 1))
    await InboxRepository(database, clock=lambda: NOW + 9).mark_read(1, [message.message_id])
    assert await rows(database) == []
    assert database.events.rows == 0
