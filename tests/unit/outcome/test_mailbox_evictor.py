"""A4、A9：满了的信箱先挤谁，以及先记录、后移出、还回内存。"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from ulid import ULID

from meeting_push.clock import now_ms
from meeting_push.errors import DatabaseUnavailableError
from meeting_push.model import Message, Sender
from meeting_push.outcome.mailbox_evictor import EVICTED, MailboxEvictor
from meeting_push.redis.redis_service import RedisService
from meeting_push.storage.id_list import Recipient
from meeting_push.supervision import Aside
from tests.support.parts import USER, Parts

CAP = 10
DAY_MS = 86_400_000


@pytest.fixture
def parts(parts: Parts) -> Parts:
    return Parts(parts.redis, parts.database, mailbox_max_entries=CAP)


async def post(parts: Parts, sender: int, priority: int = 0, to: Sequence[int] = (USER,)) -> str:
    return await parts.deliver(*to, sender=Sender(sender, f"s{sender}"), priority=priority)


def make(sender: int) -> Message:
    now = now_ms()
    return Message(
        message_id=str(ULID()),
        message_type="message",
        priority=0,
        title="t",
        content="c",
        sender=Sender(sender, "s"),
        timestamp=now,
        expires_at=now + DAY_MS,
    )


async def bodies(redis: RedisService) -> int:
    found = await redis.lean.everywhere("KEYS", redis.keys.message_body("*"))
    return sum(map(len, found))


async def test_a4_a_stranger_can_not_empty_a_mailbox(parts: Parts) -> None:
    """A4：alice 的一条紧急消息，mallory 的一批灌满信箱：走的都是 mallory 的。"""
    [alice, *_] = [await post(parts, 1, priority=9), *[await post(parts, 2) for _ in range(30)]]
    await parts.evictor.sweep()
    assert alice in await parts.held()
    assert len(await parts.held()) == CAP
    assert await parts.status(alice) == ("pending", None)


async def test_a4_not_even_by_urgency_or_by_being_last(parts: Parts) -> None:
    alice = await post(parts, 1, priority=0)
    for _ in range(30):
        await post(parts, 2, priority=9)
    await parts.evictor.sweep()
    assert alice in await parts.held()


async def test_a4_of_one_sender_the_least_urgent_goes_then_the_oldest(parts: Parts) -> None:
    urgent = await post(parts, 1, priority=5)
    plain = [await post(parts, 1) for _ in range(CAP + 1)]
    await parts.evictor.sweep()
    assert await parts.held() == [urgent, *plain[2:]]


async def test_a4_what_was_evicted_fails_with_its_reason_and_a_dead_letter(parts: Parts) -> None:
    first = await post(parts, 1)
    for _ in range(CAP):
        await post(parts, 1)
    await parts.evictor.sweep()
    assert await parts.status(first) == ("failed", EVICTED)
    assert (await parts.letters(), parts.evictor.evicted) == (1, 1)


async def test_a_mailbox_of_0_1_is_capped_by_the_same_rule(parts: Parts) -> None:
    """投递从来不记是谁发的：0.1 的信箱与今天的是一样的。"""
    alice, *old = [await post(parts, 1), *[await post(parts, 2) for _ in range(CAP - 1)]]
    parts.mailbox.overflow.take(10)
    new = await post(parts, 3)
    await parts.evictor.sweep()
    assert await parts.held() == [alice, *old[1:], new]


async def test_what_was_never_recorded_is_judged_by_its_body(parts: Parts) -> None:
    """``add_offline_message``：没有经过 MessageService，SQL 里没有它。"""
    alice, *theirs = [make(1), *[make(2) for _ in range(CAP)]]
    for message in (alice, *theirs):
        await parts.mailbox.add_offline_message(USER, message)
    await parts.evictor.sweep()
    assert await parts.held() == [alice.message_id, *(m.message_id for m in theirs[1:])]


async def test_a9_what_nobody_waits_for_gives_its_body_back_at_once(parts: Parts) -> None:
    """A9：几千条给一个不在的人：留下的正文与信箱一样多。"""
    for _ in range(3 * CAP):
        await post(parts, 1)
    await parts.evictor.sweep()
    assert await bodies(parts.redis) == CAP


async def test_a9_the_status_of_what_was_given_back_goes_within_minutes(parts: Parts) -> None:
    first = await post(parts, 1)
    for _ in range(CAP):
        await post(parts, 1)
    await parts.evictor.sweep()
    ttl = await parts.redis.lean.execute("PTTL", parts.redis.keys.delivery_status(first))
    assert ttl <= 300_000


async def test_a9_what_another_recipient_waits_for_keeps_its_body(parts: Parts) -> None:
    first = await post(parts, 1, to=(USER, USER + 1))
    for _ in range(CAP):
        await post(parts, 1)
    await parts.evictor.sweep()
    assert await parts.status(first) == ("failed", EVICTED)
    assert await parts.redis.lean.execute("EXISTS", parts.redis.keys.message_body(first)) == 1


async def test_a_late_ack_of_what_was_evicted_still_counts(parts: Parts) -> None:
    first = await post(parts, 1)
    for _ in range(CAP):
        await post(parts, 1)
    await parts.evictor.sweep()
    await parts.ack(first)
    assert await parts.status(first) == ("delivered", None)
    assert (await parts.letters(), (await parts.mailbox.open(USER)).evicted) == (0, ())


async def test_dlv_1_what_could_not_be_recorded_stays_in_the_mailbox(parts: Parts) -> None:
    async def down(pairs: object, reason: str) -> None:
        raise DatabaseUnavailableError("down")

    everything = [await post(parts, 1) for _ in range(CAP + 1)]
    with pytest.raises(DatabaseUnavailableError):
        await MailboxEvictor(parts.mailbox, parts.record, down, aside=Aside("evictions")).sweep()
    assert await parts.held() == everything
    await parts.evictor.sweep()
    assert await parts.held() == everything[1:]


async def test_dlv_1_a_crash_in_between_is_finished_by_the_next_overflow(parts: Parts) -> None:
    """选出、立了墓碑就死了：还在信箱里的照样推，下一次溢出时再选到它，不多挤一条。"""
    everything = [await post(parts, 1) for _ in range(CAP + 1)]
    assert await parts.mailbox.mark_evicted(USER, everything[:3], {}) == everything[:1]
    view = await parts.mailbox.open(USER)
    assert (len(view.entries), view.evicted) == (CAP + 1, ())
    everything.append(await post(parts, 1))
    await parts.evictor.sweep()
    assert await parts.held() == everything[2:]


async def test_a_connect_waits_a_moment_for_an_overfull_mailbox_to_be_trimmed(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """投递的人死在挤出之前：没有人再记得它溢出了，连接时看得出来。"""
    monkeypatch.setattr("meeting_push.deliver.offline_message_queue.TRIM_WAIT_S", 30)
    everything = [await post(parts, 1) for _ in range(CAP + 2)]
    parts.mailbox.overflow.take(10)
    evictor = asyncio.create_task(parts.evictor.run())
    view = await parts.mailbox.open(USER)
    evictor.cancel()
    assert [entry.message_id for entry in view.entries] == everything[2:]
    assert view.evicted == (1, 2)


async def test_lesson_17_a_spoiled_mailbox_does_not_stop_the_others(parts: Parts) -> None:
    for _ in range(CAP + 1):
        await post(parts, 1, to=(USER, USER + 1))
    await parts.redis.lean.execute("SET", parts.redis.keys.evicted_messages(USER), "x")
    await parts.evictor.sweep()
    assert len(await parts.held(USER + 1)) == CAP
    assert parts.aside.count == 1


async def test_b1_what_others_wrote_into_a_mailbox_is_evicted_like_the_rest(parts: Parts) -> None:
    key = parts.redis.keys.mailbox(USER)
    mine = [await post(parts, 1) for _ in range(CAP)]
    await parts.redis.lean.execute("ZADD", key, 0, "a\x00b")
    parts.mailbox.overflow.note([USER])
    await parts.evictor.sweep()
    assert len(await parts.held()) == CAP
    await parts.mailbox.remove([(USER, ["a\x00b"])])
    assert set(await parts.held()) <= set(mine)


async def test_lesson_17_a_spoiled_message_does_not_stop_the_others(parts: Parts) -> None:
    spoiled, *_ = [await post(parts, 1) for _ in range(CAP + 2)]
    await parts.redis.lean.execute("SET", parts.redis.keys.delivery_status(spoiled), "x")
    await parts.evictor.sweep()
    assert len(await parts.held()) == CAP


async def test_tombstones_are_bounded_and_the_oldest_become_one_range(
    monkeypatch: pytest.MonkeyPatch, parts: Parts
) -> None:
    monkeypatch.setattr("meeting_push.redis.evictions.MAX_TOMBSTONES", 3)
    for _ in range(CAP + 8):
        await post(parts, 1)
        await parts.evictor.sweep()
    view = await parts.mailbox.open(USER)
    assert view.evicted == (6, 7, 8)
    assert view.evicted_before is not None
    before = view.evicted_before
    assert (before.from_seq, before.to_seq, before.count) == (1, 5, 5)


async def test_what_eviction_needs_is_small_and_lives_no_longer_than_the_mailbox(
    parts: Parts,
) -> None:
    for _ in range(5 * CAP):
        await post(parts, 1)
        await parts.evictor.sweep()
    key = parts.redis.keys.mailbox_senders(USER)
    assert await parts.redis.lean.execute("STRLEN", key) < CAP * 16
    assert 0 < await parts.redis.lean.execute("PTTL", key) <= 7 * DAY_MS


async def test_two_who_evict_at_once_leave_no_fewer_than_the_cap(parts: Parts) -> None:
    """都看过了才动手：后一个选的已有碑，一条也不多挤；墓碑满了也不合掉还没有移出的。"""
    everything = [await post(parts, 1) for _ in range(CAP + 3)]
    assert await parts.mailbox.mark_evicted(USER, everything[:3], {}) == everything[:3]
    assert await parts.mailbox.mark_evicted(USER, everything[:3], {}) == []
    assert await parts.mailbox.mark_evicted(USER, everything[3:6], {}) == []
    assert (await parts.mailbox.overfull(USER)).leaving == everything[:3]
    await parts.evictor.sweep()
    assert await parts.held() == everything[3:]


async def test_what_is_not_yet_removed_keeps_its_tombstone(
    monkeypatch: pytest.MonkeyPatch, parts: Parts
) -> None:
    monkeypatch.setattr("meeting_push.redis.evictions.MAX_TOMBSTONES", 2)
    everything = [await post(parts, 1) for _ in range(CAP + 3)]
    await parts.mailbox.mark_evicted(USER, everything[:3], {})
    assert (await parts.mailbox.overfull(USER)).leaving == everything[:3]


async def test_a_flood_is_evicted_in_rounds_of_a_bounded_size(
    monkeypatch: pytest.MonkeyPatch, parts: Parts
) -> None:
    monkeypatch.setattr("meeting_push.outcome.mailbox_evictor.EVICTIONS", 4)
    rounds: list[int] = []

    async def fail(pairs: Sequence[Recipient], reason: str) -> None:
        rounds.append(len(pairs))
        await parts.failures.fail(pairs, reason)

    everything = [await post(parts, 1) for _ in range(CAP + 10)]
    await MailboxEvictor(parts.mailbox, parts.record, fail, aside=Aside("evictions")).sweep()
    assert (rounds, await parts.held()) == ([4, 4, 2], everything[10:])


async def test_a_mailbox_that_needs_another_round_is_not_trimmed_yet(
    monkeypatch: pytest.MonkeyPatch, parts: Parts
) -> None:
    monkeypatch.setattr("meeting_push.outcome.mailbox_evictor.EVICTIONS", 1)
    everything = [await post(parts, 1) for _ in range(CAP + 3)]
    trimmed = asyncio.create_task(parts.mailbox.overflow.wait([USER], 10))
    await asyncio.sleep(0)
    sweeping = asyncio.create_task(parts.evictor.sweep())
    await trimmed
    assert await parts.held() == everything[3:]
    await sweeping
