"""消息、收件人、收件箱的仓库；成组提交。"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from ulid import ULID

from meeting_push.model import DeliveryStatus, Message, Outgoing, RecipientState, Sender
from meeting_push.storage.accept_batch import MAX_ROWS, AcceptBatch
from meeting_push.storage.database import Database
from meeting_push.storage.inbox import MAX_PAGE_CHARS, InboxRepository
from meeting_push.storage.inbox_pages import InboxFilter
from meeting_push.storage.messages import MessageRepository
from meeting_push.storage.recipients import RecipientRepository, first_id_at
from meeting_push.storage.rows import DeliveryCounts, InboxItem
from tests.support.stored_messages import NOW, stored_message

#: 什么都用上的一条：回来的要与接受的一样。
message = partial(
    stored_message,
    priority=3,
    content="内容 😀",
    data={"n": 1, "nul": "\0", "deep": [None, 1.5, "字"]},
    receipt=True,
)


@pytest.fixture
def messages(database: Database) -> MessageRepository:
    return MessageRepository(database)


@pytest.fixture
def recipients(database: Database) -> RecipientRepository:
    return RecipientRepository(database)


@pytest.fixture
def inbox(database: Database) -> InboxRepository:
    return InboxRepository(database, clock=lambda: NOW)


async def accept(database: Database, *items: tuple[Message, Sequence[int]]) -> list[Message]:
    async with database.transaction() as connection:
        await MessageRepository(database).insert(connection, [Outgoing(*item) for item in items])
    return [item[0] for item in items]


async def test_a_message_comes_back_as_it_was_accepted(
    database: Database, messages: MessageRepository
) -> None:
    [original] = await accept(database, (message(deliver_at=NOW + 5), [1, 2]))
    assert await messages.get(original.message_id) == original


async def test_an_unknown_message_is_none(messages: MessageRepository) -> None:
    assert await messages.get("0" * 26) is None


async def test_several_messages_are_fetched_at_once(
    database: Database, messages: MessageRepository
) -> None:
    one, two = await accept(database, (message(), [1]), (message(data=None), [2]))
    found = await messages.messages([one.message_id, "0" * 26, two.message_id])
    assert found == {one.message_id: one, two.message_id: two}


async def test_an_empty_batch_is_no_error(database: Database) -> None:
    assert await accept(database) == []


async def test_dlv_1_what_is_accepted_waits_in_the_outbox_oldest_first(
    database: Database, messages: MessageRepository
) -> None:
    new, old = message(NOW), message(NOW - 10)
    await accept(database, (new, [1]), (old, [2, 3]))
    found = await messages.outbox(NOW + 1, 10)
    assert [(one.message, sorted(one.recipient_ids)) for one in found] == [
        (old, [2, 3]),
        (new, [1]),
    ]


async def test_the_outbox_leaves_what_is_too_young_and_beyond_the_limit(
    database: Database, messages: MessageRepository
) -> None:
    old, older, young = message(NOW - 10), message(NOW - 20), message(NOW)
    await accept(database, *((m, [1]) for m in (old, older, young)))
    assert [one.message for one in await messages.outbox(NOW, 10)] == [older, old]
    assert [one.message for one in await messages.outbox(NOW, 1)] == [older]


async def test_what_a_key_sent_comes_back_as_it_was(
    database: Database, messages: MessageRepository
) -> None:
    system = message(sender=Sender(id=None, name="billing"), key_id=3, receipt=False)
    behalf = message(sender=Sender(id=7, name="alice"), key_id=3)
    old = message(sender=Sender(id=0, name="system"))
    for one in await accept(database, (system, [1]), (behalf, [1]), (old, [1])):
        assert await messages.get(one.message_id) == one
    assert [one.account for one in (system, behalf, old)] == [-3, -3, 0]


async def test_the_outbox_passes_over_a_key_not_over_him_it_speaks_for(
    database: Database, messages: MessageRepository
) -> None:
    mine, his, system = message(), message(key_id=3), message(NOW - 1, key_id=4)
    await accept(database, *((one, [1]) for one in (mine, his, system)))
    assert [one.message for one in await messages.outbox(NOW + 1, 10, [-3, -4])] == [mine]
    found = await messages.outbox(NOW + 1, 10, [mine.sender_id])
    assert {one.message.key_id for one in found} == {3, 4}


async def test_what_is_enqueued_leaves_the_outbox(
    database: Database, messages: MessageRepository
) -> None:
    one, two = await accept(database, (message(), [1]), (message(), [1]))
    await messages.mark_enqueued([one.message_id], NOW)
    await messages.mark_enqueued([], NOW)
    assert [one.message for one in await messages.outbox(NOW + 1, 10)] == [two]


async def test_the_outbox_lists_only_pending_recipients(
    database: Database, messages: MessageRepository, recipients: RecipientRepository
) -> None:
    both, done = await accept(database, (message(NOW - 1), [1, 2]), (message(), [1]))
    await recipients.record_delivered([(both.message_id, 1, 1, 2), (done.message_id, 1, 1, 2)])
    assert await messages.outbox(NOW + 1, 10) == [Outgoing(both, (2,)), Outgoing(done, ())]


async def test_a_message_to_ten_thousand_is_accepted_and_read_back(
    database: Database, messages: MessageRepository
) -> None:
    crowd = range(1, 10_001)
    await accept(database, (message(), crowd))
    [found] = await messages.outbox(NOW + 1, 1)
    assert sorted(found.recipient_ids) == list(crowd)


async def test_more_recipients_than_one_chunk_are_all_stored(
    database: Database, recipients: RecipientRepository
) -> None:
    first, second = await accept(
        database, (message(), range(1, 10_001)), (message(), range(1, 15_001))
    )
    assert await recipients.counts(first.message_id) == DeliveryCounts(pending=10_000)
    assert await recipients.counts(second.message_id) == DeliveryCounts(pending=15_000)


async def test_a_batch_of_a_thousand_messages_is_one_transaction(
    database: Database, messages: MessageRepository
) -> None:
    batch = [(message(), [n]) for n in range(1, 1_001)]
    await accept(database, *batch)
    assert len(await messages.outbox(NOW + 1, 2_000)) == 1_000


async def test_a_batch_with_one_bad_message_stores_nothing(
    database: Database, messages: MessageRepository
) -> None:
    twin = message()
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        await accept(database, (message(), [1]), (twin, [1]), (twin, [2]))
    assert await messages.outbox(NOW + 1, 10) == []


async def test_a_stored_batch_with_one_bad_message_stores_nothing(
    database: Database, messages: MessageRepository
) -> None:
    twin, good = message(), Outgoing(message(), (1,))
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        await messages.store([good, Outgoing(twin, (1,)), Outgoing(twin, (2,))])
    assert await messages.outbox(NOW + 1, 10) == []
    assert await messages.store([good])


async def test_a_caller_who_commits_after_an_error_has_stored_nothing(
    database: Database, messages: MessageRepository
) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL commits nothing after an error")
    twin = message()
    batch = [Outgoing(one, (1,)) for one in (message(), twin, twin)]
    async with database.transaction() as connection:
        with pytest.raises(IntegrityError):
            await messages.insert(connection, batch)
    assert await messages.outbox(NOW + 1, 10) == []


async def test_dlv_4_an_ack_makes_a_recipient_delivered(
    database: Database, recipients: RecipientRepository
) -> None:
    [sent] = await accept(database, (message(), [1, 2]))
    assert await recipients.record_delivered([(sent.message_id, 1, 10, 20)]) == 1
    assert (await recipients.page(sent.message_id)).items == [
        RecipientState(1, DeliveryStatus.DELIVERED, 0, 10, 20, None, None),
        RecipientState(2, DeliveryStatus.PENDING, 0, None, None, None, None),
    ]


async def test_a_repeated_ack_keeps_the_first_times(
    database: Database, recipients: RecipientRepository
) -> None:
    [sent] = await accept(database, (message(), [1]))
    await recipients.record_delivered([(sent.message_id, 1, 10, 20)])
    assert await recipients.record_delivered([(sent.message_id, 1, 11, 21)]) == 0
    [state] = (await recipients.page(sent.message_id)).items
    assert (state.sent_at, state.delivered_at) == (10, 20)


async def test_acks_are_counted_once_whatever_else_is_in_the_batch(
    database: Database, recipients: RecipientRepository
) -> None:
    one, two = await accept(database, (message(), range(1, 1001)), (message(), range(1, 1001)))
    known = [(m.message_id, user, 1, 2) for m in (one, two) for user in range(1, 1001)]
    strange = [("0" * 26, 1, 1, 2), (one.message_id, 5_000, 1, 2), known[0]]
    assert await recipients.record_delivered(known + strange) == 2_000
    assert await recipients.counts(two.message_id) == DeliveryCounts(delivered=1_000)


async def test_no_acks_are_no_work(recipients: RecipientRepository) -> None:
    assert await recipients.record_delivered([]) == 0


async def test_batches_of_two_nodes_with_the_same_rows_do_not_deadlock(
    database: Database, recipients: RecipientRepository
) -> None:
    [sent] = await accept(database, (message(), range(1, 501)))
    rows = [(sent.message_id, user, 1, 2) for user in range(1, 501)]
    done = await asyncio.gather(
        *(recipients.record_delivered(batch) for batch in (rows, rows[::-1], rows, rows[::-1]))
    )
    assert sum(done) == 500


async def test_recipients_are_paged_by_user(
    database: Database, recipients: RecipientRepository
) -> None:
    [sent] = await accept(database, (message(), [30, 10, 20]))
    first = await recipients.page(sent.message_id, limit=2)
    assert first.next_cursor == 20
    rest = await recipients.page(sent.message_id, first.next_cursor, limit=2)
    assert [state.user_id for state in first.items + rest.items] == [10, 20, 30]
    assert rest.next_cursor is None


async def test_an_unknown_message_has_no_counts(recipients: RecipientRepository) -> None:
    assert await recipients.counts("0" * 26) == DeliveryCounts()


def test_the_first_id_of_a_millisecond_is_not_after_any_of_it() -> None:
    assert first_id_at(NOW) <= str(ULID.from_timestamp(NOW / 1000)) < first_id_at(NOW + 1)


async def test_the_inbox_shows_the_newest_first_in_pages(
    database: Database, inbox: InboxRepository
) -> None:
    sent = [message(NOW - n) for n in range(5)]
    await accept(database, *((m, [1]) for m in sent), (message(), [2]))
    first = await inbox.page(1, limit=3)
    rest = await inbox.page(1, cursor=first.next_cursor, limit=3)
    assert [item.message for item in first.items + rest.items] == sent
    assert rest.next_cursor is None


async def test_a7_a_page_is_bounded_by_size(database: Database, inbox: InboxRepository) -> None:
    """A7：一页的正文有上限，其余在下一页，一条不少；再大的一条也总能读到。"""
    huge, large = "字" * MAX_PAGE_CHARS, "x" * (MAX_PAGE_CHARS // 2)
    sent = [
        message(NOW - n, content=text) for n, text in enumerate([huge, large, large, "小", "小"])
    ]
    await accept(database, *((m, [1]) for m in sent))
    sizes: list[int] = []
    found: list[object] = []
    cursor: str | None = None
    while cursor or not sizes:
        page = await inbox.page(1, cursor=cursor, limit=3)
        found += [item.message for item in page.items]
        sizes.append(len(page.items))
        cursor = page.next_cursor
    assert (found, sizes) == (sent, [1, 2, 2])


async def test_a_page_that_just_fits_has_no_next(
    database: Database, inbox: InboxRepository
) -> None:
    await accept(database, (message(), [1]))
    assert (await inbox.page(1, limit=1)).next_cursor is None


async def test_reading_changes_the_unread_count_and_is_told_once(
    database: Database, inbox: InboxRepository
) -> None:
    one, two = await accept(database, (message(NOW - 1), [1]), (message(), [1]))
    assert await inbox.mark_read(1, [one.message_id, "0" * 26]) == [one.message_id]
    assert await inbox.mark_read(1, [one.message_id]) == []
    assert await inbox.unread_count(1) == 1
    assert [item.message for item in (await inbox.page(1, InboxFilter(unread=True))).items] == [two]


async def test_reading_up_to_a_message_reads_what_is_older(
    database: Database, inbox: InboxRepository
) -> None:
    sent = [message(NOW - 3), message(NOW - 2), message(NOW - 1)]
    await accept(database, *((m, [1, 2]) for m in sent))
    read = await inbox.mark_read_upto(1, sent[1].message_id)
    assert read == [m.message_id for m in sent[:2]]
    assert (await inbox.unread_count(1), await inbox.unread_count(2)) == (1, 3)


async def test_sec_1_nobody_reads_the_message_of_another(
    database: Database, inbox: InboxRepository
) -> None:
    [sent] = await accept(database, (message(), [1]))
    assert await inbox.mark_read(2, [sent.message_id]) == []
    assert await inbox.get_for(2, sent.message_id) is None
    assert await inbox.get_for(1, sent.message_id) == InboxItem(sent, DeliveryStatus.PENDING, None)


async def test_a_scheduled_message_is_not_in_the_inbox_before_its_time(
    database: Database, inbox: InboxRepository
) -> None:
    [later] = await accept(database, (message(deliver_at=NOW + 1), [1]))
    assert (await inbox.page(1)).items == []
    assert await inbox.unread_count(1) == 0
    assert await inbox.get_for(1, later.message_id) is None
    assert await inbox.mark_read_upto(1, later.message_id) == []
    due = InboxRepository(database, clock=lambda: NOW + 1)
    assert await due.unread_count(1) == 1


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (
            "SELECT message_id FROM mp_messages WHERE enqueued_at IS NULL ORDER BY message_id",
            "mp_ix_messages_outbox",
        ),
        (
            "SELECT count(*) FROM mp_message_recipients WHERE user_id = 1 AND read_at IS NULL",
            "mp_ix_recipients_inbox",
        ),
        (
            "SELECT message_id FROM mp_message_recipients"
            " WHERE user_id = 1 ORDER BY message_id DESC",
            "mp_ix_recipients_inbox",
        ),
    ],
)
async def test_the_frequent_questions_use_their_index(
    database: Database, query: str, index: str
) -> None:
    async with database.transaction() as connection:
        if not database.is_sqlite:
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
        plan = (await connection.execute(text(explain + query))).all()
    assert index in str(plan)


async def test_a5_a_small_accept_waits_for_one_huge_one_at_most() -> None:
    """成组提交：两个大的之间，小的总有一次。"""
    groups: list[list[str]] = []

    class Slow:
        async def store(self, items: Sequence[Outgoing]) -> None:
            groups.append([item.message.message_id for item in items])
            await asyncio.sleep(0)

    accepts = AcceptBatch(Slow())  # type: ignore[arg-type]
    huge = [[Outgoing(message(message_id=f"huge{n}"), range(MAX_ROWS + 1))] for n in range(4)]
    small = [[Outgoing(message(message_id=f"small{n}"), range(1))] for n in range(3)]
    await asyncio.gather(*(accepts.insert(one) for one in [*huge, *small]))
    order = [name for group in groups for name in group]
    assert [order.index(f"small{n}") for n in range(3)] == [0, 1, 2]
    assert sorted(order) == sorted([*(f"huge{n}" for n in range(4)), "small0", "small1", "small2"])
