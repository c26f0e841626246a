"""DLV-5：洞总要宣告。信箱的上限、过期，从客户端与发送者两边看。"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meeting_push.mailbox_model import EvictedRange, MailboxEntry, MailboxView
from meeting_push.protocol.frames import Gap
from meeting_push.protocol.sent import SentSeqs
from meeting_push.protocol.sent import gaps as gaps_of
from tests.support.eventually import eventually
from tests.support.people import Person, api_of, delivery, device, register, send
from tests.support.server_process import ServerProcess

from .conftest import evicted, gaps, sent, settled

pytestmark = pytest.mark.timeout(240)


async def test_dlv_5_what_the_cap_pushed_out_is_announced_before_the_flush(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    ids = await sent(server, alice, bob, 5)
    await evicted(server, alice, ids[:2], bob)
    async with device(server.ws_url(bob.user_id), bob) as phone:
        assert [(await phone.next_message())["message_id"] for _ in range(3)] == ids[2:]
        [gap] = await gaps(phone)
    assert gap == {"type": "gap", "from_seq": 1, "to_seq": 2, "count": 2, "reason": "evicted"}


async def test_dlv_5_the_sender_sees_what_the_cap_pushed_out(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    [first, *_] = await sent(server, alice, bob, 4)

    async def failed() -> bool:
        return bool((await delivery(server.base_url, alice, first))["failed"])

    await eventually(failed)
    [row] = (await delivery(server.base_url, alice, first))["recipients"]
    assert (row["status"], row["failure_reason"]) == ("failed", "mailbox_evicted")


async def test_a4_a_stranger_fills_a_mailbox_and_what_others_sent_stays(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    """A4：alice 的一条紧急消息之后，mallory 一批灌满：bob 得到 alice 的，mallory 的有洞。"""
    mallory = await register(server.base_url, "mallory")
    first = await send(server.base_url, alice, [bob], priority=9)
    await settled(server, bob, 1)
    batch = [{"recipient_ids": [bob.user_id], "title": "t", "content": "c"}] * 6
    async with api_of(server.base_url, mallory) as api:
        answer = await api.post("/messages/batch", json={"messages": batch})
    junk = [one["message_id"] for one in answer.json()["results"]]
    await settled(server, bob, 7)
    await eventually(lambda: kept_only(server, bob))
    async with device(server.ws_url(bob.user_id), bob) as phone:
        got = [(await phone.next_message())["message_id"] for _ in range(3)]
        told = await gaps(phone)
    assert got[0] == first
    assert set(got[1:]) < set(junk)
    assert [(gap["count"], gap["reason"]) for gap in told] == [(4, "evicted")]
    assert (await delivery(server.base_url, alice, first))["pending"] == 1


async def kept_only(server: ServerProcess, bob: Person) -> bool:
    async with api_of(server.base_url, bob) as api:
        answer = await api.get(f"/users/{bob.user_id}/offline-messages/count")
    return bool(answer.json()["count"] == 3)


async def test_every_device_without_a_position_is_told(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    await evicted(server, alice, (await sent(server, alice, bob, 4))[:1], bob)
    for _ in range(2):
        async with device(server.ws_url(bob.user_id), bob) as phone:
            await phone.next_message()
            assert len(await gaps(phone)) == 1


async def test_a_resuming_device_gets_what_somebody_else_still_waits_for(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    """被挤出的消息还有别的收件人：正文还在，续传的从日志得到它，没有洞。"""
    carol = await register(server.base_url, "carol-who-waits")
    async with device(server.ws_url(bob.user_id), bob) as phone:
        epoch = phone.welcome["epoch"]
    ids = []
    for seq in range(1, 6):
        ids.append(await send(server.base_url, alice, [bob, carol] if seq <= 2 else [bob]))
        await settled(server, bob, seq)
    await evicted(server, alice, ids[:2], bob)
    async with device(server.ws_url(bob.user_id, epoch=epoch, last_seq=0), bob) as phone:
        assert phone.welcome["resumed"]
        assert [(await phone.next_message())["message_id"] for _ in range(5)] == ids
        assert await gaps(phone) == []


async def test_a9_a_resuming_device_is_told_of_what_nobody_waits_for(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    """A9：谁也不等的，正文当场交还；续传的设备听到 gap，而不是从记录里再捞一次。"""
    async with device(server.ws_url(bob.user_id), bob) as phone:
        epoch = phone.welcome["epoch"]
    ids = await sent(server, alice, bob, 5)
    await evicted(server, alice, ids[:2], bob)
    async with device(server.ws_url(bob.user_id, epoch=epoch, last_seq=1), bob) as phone:
        assert phone.welcome["resumed"]
        assert [(await phone.next_message())["message_id"] for _ in range(3)] == ids[2:]
        told = await gaps(phone)
    assert told == [{"type": "gap", "from_seq": 2, "to_seq": 2, "count": 1, "reason": "evicted"}]


async def test_dlv_5_what_expired_in_the_mailbox_is_announced(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    ids = [await send(server.base_url, alice, [bob], expires_in_s=1)]
    await settled(server, bob, 1)
    ids.append(await send(server.base_url, alice, [bob]))
    await settled(server, bob, 2)
    async with device(server.ws_url(bob.user_id), bob) as phone:
        epoch = phone.welcome["epoch"]
    with pytest.raises(AssertionError):  # 等它过期：没有别的事件可等
        await eventually(lambda: False, 1.1)
    for query in ({"epoch": epoch, "last_seq": 0}, {}):
        async with device(server.ws_url(bob.user_id, **query), bob) as phone:
            assert (await phone.next_message())["message_id"] == ids[1]
            told = await gaps(phone)
        if query:
            expected = {"from_seq": 1, "to_seq": 1, "count": 1, "reason": "expired"}
            assert told == [{"type": "gap"} | expected]


async def test_the_inbox_still_has_what_the_mailbox_lost(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    ids = await sent(server, alice, bob, 5)
    async with api_of(server.base_url, bob) as api:
        inbox = (await api.get("/messages")).json()
    assert [item["message_id"] for item in inbox["items"]] == ids[::-1]


def told(
    *expired: int,
    live: Sequence[int] = (),
    evicted: Sequence[int] = (),
    before: EvictedRange | None = None,
    unreadable: Sequence[int] = (),
    upto: int = 0,
) -> list[tuple[int, int, int, str]]:
    entries = tuple(MailboxEntry(seq, str(seq), 0) for seq in live)
    view = MailboxView(
        *("e", 99, entries),
        evicted=tuple(evicted),
        expired=expired,
        evicted_before=before,
        unreadable=tuple(unreadable),
    )
    found: list[Gap] = list(gaps_of(view, upto, SentSeqs()))
    return [(gap.from_seq, gap.to_seq, gap.count, gap.reason) for gap in found]


def test_an_expired_gap_never_covers_what_is_still_to_come() -> None:
    assert told(1, 2, 5, 9, live=[3, 4, 7]) == [
        (1, 2, 2, "expired"),
        (5, 5, 1, "expired"),
        (9, 9, 1, "expired"),
    ]


def test_an_expired_gap_spans_what_was_acked_in_between() -> None:
    assert told(1, 6, live=[7]) == [(1, 6, 2, "expired")]


def test_gaps_come_in_order_and_name_a_seq_once() -> None:
    assert told(1, 4, 9, before=EvictedRange(3, 5, 2)) == [
        (1, 1, 1, "expired"),
        (3, 5, 3, "evicted"),
        (9, 9, 1, "expired"),
    ]


def test_only_what_follows_the_last_announcement_is_announced() -> None:
    assert told(1, 4, 9, before=EvictedRange(3, 6, 3), upto=4) == [
        (5, 6, 2, "evicted"),
        (9, 9, 1, "expired"),
    ]


def test_a4_several_evicted_gaps_go_around_what_is_still_to_come() -> None:
    """A4：挤出按份额，不再是最早的一段；中间留下的还会来。"""
    assert told(5, evicted=[1, 2, 4, 8], live=[3], upto=0) == [
        (1, 2, 2, "evicted"),
        (4, 4, 1, "evicted"),
        (5, 5, 1, "expired"),
        (8, 8, 1, "evicted"),
    ]


def test_a4_the_range_of_older_evictions_breaks_at_what_is_still_to_come() -> None:
    assert told(before=EvictedRange(1, 9, 5), live=[4, 5]) == [
        (1, 3, 3, "evicted"),
        (6, 9, 2, "evicted"),
    ]


def test_dlv_5_what_can_not_be_read_just_now_is_no_gap() -> None:
    """记录一时问不到：正文以后补，那一条还会来。"""
    assert told(1, 3, unreadable=[2]) == [(1, 1, 1, "expired"), (3, 3, 1, "expired")]


SEQS = st.sets(st.integers(1, 30), max_size=20)


@given(
    expired=SEQS,
    evicted=SEQS,
    live=SEQS,
    unreadable=SEQS,
    edges=st.tuples(*[st.integers(1, 30)] * 2),
)
def test_a_gap_covers_what_is_gone_and_nothing_that_may_come(
    expired: set[int],
    evicted: set[int],
    live: set[int],
    unreadable: set[int],
    edges: tuple[int, int],
) -> None:
    low, high = sorted(edges)
    before = EvictedRange(low, high, high - low + 1)
    found = told(
        *sorted(expired),
        live=sorted(live),
        evicted=sorted(evicted),
        before=before,
        unreadable=sorted(unreadable),
    )
    covered = [seq for first, last, *_ in found for seq in range(first, last + 1)]
    assert covered == sorted(set(covered)), "a seq told twice, or out of order"
    assert not set(covered) & (live | unreadable)
    assert (expired | evicted | set(range(low, high + 1))) - live - unreadable <= set(covered)
    assert all(1 <= count <= last - first + 1 for first, last, count, _ in found)
