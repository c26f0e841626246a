"""收件箱的仓库：广播在里面，筛选与查找，已读与归档，数目与版本；发出去的。两种数据库一样。"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import delete, insert, select

from meeting_push.model import DeliveryStatus, Message, Outgoing, Sender
from meeting_push.storage.broadcasts import BroadcastRepository
from meeting_push.storage.database import Database
from meeting_push.storage.inbox import InboxRepository, SentRepository
from meeting_push.storage.inbox_pages import MAX_PAGE_CHARS, SEARCHED, InboxFilter
from meeting_push.storage.messages import MessageRepository
from meeting_push.storage.rows import InboxChange
from meeting_push.storage.tables import broadcasts, inboxes, messages, users
from tests.support.stored_messages import NOW
from tests.support.stored_messages import stored_message as message

ANN, BEN = 1, 2


@pytest.fixture
def inbox(database: Database) -> InboxRepository:
    return InboxRepository(database, clock=lambda: NOW)


async def send(database: Database, one: Message, to: Sequence[int] = (ANN,)) -> str:
    async with database.transaction() as connection:
        await MessageRepository(database).insert(connection, [Outgoing(one, list(to))])
    return one.message_id


async def cast(database: Database, one: Message) -> str:
    async with database.transaction() as connection:
        await BroadcastRepository(database).insert(connection, one)
    return one.message_id


async def ids(inbox: InboxRepository, user_id: int = ANN, **wanted: Any) -> list[str]:
    page = await inbox.page(user_id, InboxFilter(**wanted))
    return [item.message.message_id for item in page.items]


async def known(database: Database, user_id: int, at: int) -> None:
    """有账号的。"""
    name = f"u{user_id}"
    row = {"id": user_id, "username": name, "username_key": name, "password_hash": "", "role": "x"}
    async with database.transaction() as connection:
        await connection.execute(insert(users), row | {"created_at": at})


async def test_a_broadcast_is_in_the_inbox_among_the_messages(
    database: Database, inbox: InboxRepository
) -> None:
    old = await send(database, message(NOW - 9_000))
    loud = await cast(database, message(NOW - 5_000, expires_at=NOW + 1))
    new = await send(database, message(NOW - 1_000))
    page = await inbox.page(ANN)
    assert [item.message.message_id for item in page.items] == [new, loud, old]
    assert [item.broadcast for item in page.items] == [False, True, False]
    assert page.items[1].status is DeliveryStatus.PENDING
    assert await inbox.unread_count(ANN) == 3
    one = await inbox.get_for(ANN, loud)
    assert one is not None
    assert one.broadcast


async def test_who_acked_a_broadcast_has_it_delivered_and_who_did_not_expired(
    database: Database, inbox: InboxRepository
) -> None:
    for user in (ANN, BEN):
        await known(database, user, NOW - 60_000)
    loud = await cast(database, message(NOW - 5_000))
    await BroadcastRepository(database).record_delivered([(loud, ANN, NOW - 4_000)])
    [his], [hers] = (await inbox.page(ANN)).items, (await inbox.page(BEN)).items
    assert (his.status, hers.status) == (DeliveryStatus.DELIVERED, DeliveryStatus.EXPIRED)


async def test_broadcasts_from_before_he_was_known_are_not_his(
    database: Database, inbox: InboxRepository
) -> None:
    await cast(database, message(NOW - 9_000))
    await known(database, ANN, NOW - 5_000)
    after = await cast(database, message(NOW - 1_000))
    assert await ids(inbox) == [after]
    assert await ids(inbox, BEN) == []  # 谁也没见过他：从此刻起


async def test_known_is_who_acked_a_broadcast_or_got_a_message(
    database: Database, inbox: InboxRepository
) -> None:
    loud = await cast(database, message(NOW - 9_000))
    later = await cast(database, message(NOW - 3_000))
    await BroadcastRepository(database).record_delivered([(loud, ANN, NOW - 8_000)])
    first = await send(database, message(NOW - 5_000), [BEN])
    assert await ids(inbox) == [later, loud]
    assert await ids(inbox, BEN) == [later, first]


async def test_since_when_he_is_known_outlives_what_said_so(
    database: Database, inbox: InboxRepository
) -> None:
    first = await send(database, message(NOW - 9_000))
    loud = await cast(database, message(NOW - 5_000))
    assert await ids(inbox) == [loud, first]
    async with database.transaction() as connection:
        await connection.execute(delete(messages).where(messages.c.message_id == first))
    assert await ids(InboxRepository(database, clock=lambda: NOW)) == [loud]


async def test_a_scheduled_broadcast_is_not_there_before_its_time(
    database: Database, inbox: InboxRepository
) -> None:
    await known(database, ANN, NOW - 9_000)
    loud = await cast(database, message(NOW - 5_000, deliver_at=NOW + 1))
    assert (await ids(inbox), await inbox.unread_count(ANN)) == ([], 0)
    assert await ids(InboxRepository(database, clock=lambda: NOW + 1)) == [loud]


async def test_pages_go_on_across_both_kinds(database: Database, inbox: InboxRepository) -> None:
    wanted = [await send(database, message(NOW - 20_000))]
    for n in range(1, 9):
        make = cast if n % 3 else send
        wanted.insert(0, await make(database, message(NOW - 20_000 + n)))
    found: list[str] = []
    cursor: str | None = None
    while cursor or not found:
        page = await inbox.page(ANN, cursor=cursor, limit=2)
        found += [item.message.message_id for item in page.items]
        cursor = page.next_cursor
    assert found == wanted


async def test_reading_and_archiving_a_broadcast_is_each_persons_own(
    database: Database, inbox: InboxRepository
) -> None:
    for user in (ANN, BEN):
        await known(database, user, NOW - 60_000)
    loud = await cast(database, message(NOW - 5_000))
    assert await inbox.mark_read(ANN, [loud]) == [loud]
    assert await inbox.mark_read(ANN, [loud]) == []
    assert (await inbox.unread_count(ANN), await inbox.unread_count(BEN)) == (0, 1)
    change = await inbox.set_state(BEN, [loud], archived=True)
    assert (change.message_ids, change.unread, change.changed) == ([loud], 0, True)
    assert (await ids(inbox, BEN), await ids(inbox, BEN, archived=True)) == ([], [loud])
    assert (await ids(inbox), await ids(inbox, archived=True)) == ([loud], [])


async def test_reading_up_to_a_message_reads_older_broadcasts_too(
    database: Database, inbox: InboxRepository
) -> None:
    old = await send(database, message(NOW - 9_000))
    loud, new = [await cast(database, message(NOW - n)) for n in (5_000, 1_000)]
    assert await inbox.mark_read_upto(ANN, loud) == [old, loud]
    assert await ids(inbox, unread=True) == [new]


async def test_archived_is_a_place_of_its_own(database: Database, inbox: InboxRepository) -> None:
    kept, put = [await send(database, message(NOW - n)) for n in (2, 1)]
    change = await inbox.set_state(ANN, [put], archived=True)
    assert (change.unread, change.changed) == (1, True)
    assert (await ids(inbox), await ids(inbox, archived=True)) == ([kept], [put])
    counts = await inbox.counts(ANN)
    assert (counts.unread, counts.urgent, counts.archived) == (1, 0, 1)
    back = await inbox.set_state(ANN, [put], archived=False)
    assert (back.unread, await ids(inbox)) == (2, [put, kept])


async def test_unread_again_and_the_version_only_rises(
    database: Database, inbox: InboxRepository
) -> None:
    one = await send(database, message())
    versions = [(await inbox.counts(ANN)).version]
    for read in (True, False):
        change = await inbox.set_state(ANN, [one], read=read)
        versions.append(change.version)
        assert change.unread == (0 if read else 1)
    await inbox.mark_read(ANN, [one])
    versions.append((await inbox.counts(ANN)).version)
    assert versions == sorted(set(versions))
    assert versions[0] == 0


async def test_marking_read_again_writes_nothing(
    database: Database, inbox: InboxRepository
) -> None:
    """再标一遍（别的设备、重试、“全部已读”）：他的那一行不动，也不锁它。"""
    await known(database, ANN, NOW - 60_000)
    one, loud = await send(database, message(NOW - 2)), await cast(database, message(NOW - 1))
    assert await inbox.mark_read(ANN, [one]) == [one]
    assert await inbox.mark_read_upto(ANN, loud) == [loud]
    version = (await inbox.counts(ANN)).version
    assert await inbox.mark_read(ANN, [one, loud]) == []
    assert await inbox.mark_read_upto(ANN, loud) == []
    assert (await inbox.counts(ANN)).version == version


async def test_what_changed_nothing_says_so_and_writes_nothing(
    database: Database, inbox: InboxRepository
) -> None:
    """版本照旧：别的设备不必因此再取一遍；答的未读数仍是此刻的。"""
    await known(database, ANN, NOW - 60_000)
    one, loud = await send(database, message(NOW - 2)), await cast(database, message(NOW - 1))
    both, version = [one, loud], 0
    for state in (False, True, False):
        change = await inbox.set_state(ANN, both, read=state, archived=state)
        assert change.changed is (version > 0 or state)
        version += change.changed
        again = await inbox.set_state(ANN, both, read=state, archived=state)
        assert again == InboxChange(both, 0 if state else 2, version, False)
        assert (await inbox.counts(ANN)).version == version
    half = await inbox.set_state(ANN, both, read=False, archived=True)
    assert (half.changed, half.version) == (True, version + 1)


async def test_sec_1_the_state_of_somebody_elses_message_stays(
    database: Database, inbox: InboxRepository
) -> None:
    one = await send(database, message(), [BEN])
    change = await inbox.set_state(ANN, [one, "0" * 26], read=True, archived=True)
    assert (change.message_ids, change.changed) == ([], False)
    assert await ids(inbox, BEN, unread=True) == [one]


async def test_a_withdrawn_message_is_not_unread_again(
    database: Database, inbox: InboxRepository
) -> None:
    one = await send(database, message(withdrawn_at=None))
    async with database.transaction() as connection:
        await connection.execute(
            messages.update().where(messages.c.message_id == one).values(withdrawn_at=NOW)
        )
    read = await inbox.set_state(ANN, [one], read=True)
    again = await inbox.set_state(ANN, [one], read=False)
    assert (again.unread, again.changed, again.version) == (0, False, read.version)


async def test_many_devices_at_once_end_with_the_count_of_the_newest_version(
    database: Database, inbox: InboxRepository
) -> None:
    sent = [await send(database, message(NOW - n)) for n in range(6)]
    changes = await asyncio.gather(*(inbox.set_state(ANN, [one], read=True) for one in sent))
    assert len({change.version for change in changes}) == 6
    by_version = sorted(changes, key=lambda change: change.version)
    assert [change.unread for change in by_version] == [5, 4, 3, 2, 1, 0]


async def test_filters_by_type_and_priority(database: Database, inbox: InboxRepository) -> None:
    plain = await send(database, message(NOW - 40))
    urgent = await send(database, message(NOW - 30, priority=5))
    notice = await send(database, message(NOW - 20, message_type="notification", priority=2))
    loud = await cast(database, message(NOW - 10, message_type="system", priority=9))
    assert await ids(inbox, min_priority=5) == [loud, urgent]
    assert await ids(inbox, message_type="notification") == [notice]
    assert await ids(inbox, message_type="system", min_priority=9) == [loud]
    await inbox.mark_read(ANN, [loud])
    assert await ids(inbox, min_priority=5, unread=True) == [urgent]
    counts = await inbox.counts(ANN)
    assert (counts.unread, counts.urgent) == (3, 1)
    assert plain in await ids(inbox, message_type="message")


async def test_a_filter_goes_on_after_its_cursor(
    database: Database, inbox: InboxRepository
) -> None:
    sent = [
        await send(database, message(NOW - n, message_type=("message", "system")[n % 2]))
        for n in range(9)
    ]
    loud = await cast(database, message(NOW - 2, message_type="system"))
    wanted = InboxFilter(message_type="system")
    first = await inbox.page(ANN, wanted, limit=3)
    rest = await inbox.page(ANN, wanted, first.next_cursor, 3)
    assert rest.next_cursor is None
    found = [item.message.message_id for item in first.items + rest.items]
    assert found == sorted([*sent[1::2], loud], reverse=True)


@pytest.mark.parametrize(
    ("sought", "found"),
    [
        ("会", True),
        ("会议", True),
        ("议会", False),
        ("CAFÉ", False),  # É 不是 ASCII：照原样
        ("cafÉ bAr", True),
        ("100%", True),
        ("100_", False),
        ("%", True),
        ("\\d", True),
        ("'; --", True),
        ("😀", True),
        ("not there", False),
    ],
)
async def test_a_text_is_found_in_title_and_content_alike(
    database: Database, inbox: InboxRepository, sought: str, found: bool
) -> None:
    text = "Caf\u00c9 BAR 100% \\d '; -- 😀 下午的会议"
    sought = sought.replace("CAFÉ", "CAFé")
    await send(database, message(NOW - 3))
    in_title = await send(database, message(NOW - 2, title=text))
    in_content = await send(database, message(NOW - 1, content=f"前面 {text}"))
    loud = await cast(database, message(NOW, title=text))
    assert await ids(inbox, text=sought) == ([loud, in_content, in_title] if found else [])


async def test_a_search_goes_on_after_its_cursor(
    database: Database, inbox: InboxRepository
) -> None:
    sent = [await send(database, message(NOW - n, title=f"周报 {n % 2}")) for n in range(8)]
    first = await inbox.page(ANN, InboxFilter(text="报 1"), limit=3)
    rest = await inbox.page(ANN, InboxFilter(text="报 1"), first.next_cursor, 3)
    assert [i.message.message_id for i in first.items + rest.items] == sent[1::2]
    assert rest.next_cursor is None


async def test_a_search_looks_at_the_newest_only(
    database: Database, inbox: InboxRepository
) -> None:
    await send(database, message(NOW - SEARCHED - 10, title="最早的"))
    rest = [Outgoing(message(NOW - n), [ANN]) for n in range(SEARCHED - 1, -1, -1)]
    async with database.transaction() as connection:
        await MessageRepository(database).insert(connection, rest)
    assert await ids(inbox, text="最早") == []
    assert len((await inbox.page(ANN, InboxFilter(text="标题"), limit=200)).items) == 200


async def test_reading_goes_on_while_sql_refuses_to_write(
    database: Database, inbox: InboxRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meeting_push.errors import DatabaseUnavailableError

    one = await send(database, message())

    async def refused(*_: object) -> int:
        raise DatabaseUnavailableError("read-only")

    with monkeypatch.context() as patched:
        patched.setattr(database, "change", refused)
        assert await ids(inbox) == [one]
    assert await ids(inbox) == [one]
    assert len(await database.rows(select(inboxes.c.user_id))) == 1


async def test_what_he_sent_is_listed_and_what_a_key_sent_for_him_is_not(
    database: Database,
) -> None:
    sent = SentRepository(database)
    one = await send(database, message(NOW - 3, sender=Sender(id=ANN, name="ann")), [BEN, 3])
    await send(database, message(NOW - 2, sender=Sender(id=ANN, name="ann"), key_id=4))
    await send(database, message(NOW - 2, sender=Sender(id=BEN, name="ben")))
    loud = await cast(database, message(NOW - 1, sender=Sender(id=ANN, name="ann")))
    page = await sent.page(ANN, None, 50)
    assert [(i.message.message_id, i.recipient_count, i.broadcast) for i in page.items] == [
        (loud, 0, True),
        (one, 2, False),
    ]
    [by_key] = (await sent.page(-4, None, 50)).items
    assert by_key.message.key_id == 4


async def test_what_he_sent_tells_its_first_recipients(database: Database) -> None:
    sender = Sender(id=ANN, name="ann")
    few = await send(database, message(NOW - 3, sender=sender), [7, BEN])
    many = await send(database, message(NOW - 2, sender=sender), [9, 5, 8, 6, 7])
    loud = await cast(database, message(NOW - 1, sender=sender))
    page = await SentRepository(database).page(ANN, None, 50)
    assert {i.message.message_id: i.recipients for i in page.items} == {
        loud: (),
        many: (5, 6, 7),
        few: (BEN, 7),
    }


async def test_the_list_of_what_he_sent_is_full_whatever_others_sent(database: Database) -> None:
    """没有空的一页：别人的不在他的索引里。"""
    sender = Sender(id=ANN, name="ann")
    his = {0, 1, 2, 3, 9}
    wanted: list[str] = []
    for n in range(10):
        one = message(NOW - n, sender=sender if n in his else Sender(id=7, name="x"))
        await send(database, one, [BEN])
        wanted += [one.message_id] if n in his else []
    pages = await all_pages(database, ANN, limit=2)
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [one for page in pages for one in page] == wanted


async def test_a_page_of_what_he_sent_is_bounded(database: Database) -> None:
    """同收件箱的（A7）：正文多就短，第一条总在。"""
    long = MAX_PAGE_CHARS // 3 + 1
    sizes = [long, 2 * MAX_PAGE_CHARS, long, long, long, long]
    sent = [
        await send(
            database,
            message(NOW - n, sender=Sender(id=ANN, name="ann"), content="c" * size),
            [BEN],
        )
        for n, size in enumerate(sizes)
    ]
    pages = await all_pages(database, ANN, limit=50)
    assert [one for page in pages for one in page] == sent
    assert [len(page) for page in pages] == [2, 3, 1]


async def test_nobody_is_listed_what_the_system_sent(database: Database) -> None:
    await send(database, message(NOW, sender=Sender(id=0, name="")))
    assert await all_pages(database, 0, limit=2) == [[]]


async def all_pages(database: Database, account: int, limit: int) -> list[list[str]]:
    pages: list[list[str]] = []
    cursor: str | None = None
    while cursor or not pages:
        page = await SentRepository(database).page(account, cursor, limit)
        pages.append([item.message.message_id for item in page.items])
        cursor = page.next_cursor
    return pages


async def test_the_broadcasts_table_alone_says_what_is_one(
    database: Database, inbox: InboxRepository
) -> None:
    """清理过的：没有消息的一行广播不数。"""
    await known(database, ANN, NOW - 60_000)
    loud = await cast(database, message(NOW - 5_000))
    async with database.transaction() as connection:
        await connection.execute(delete(broadcasts).where(broadcasts.c.message_id == loud))
    assert (await ids(inbox), await inbox.unread_count(ANN)) == ([], 0)
