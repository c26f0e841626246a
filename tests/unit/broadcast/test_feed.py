"""广播的日志、游标与目录，对真的 Redis。"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from meeting_push.broadcast.feed import BroadcastFeed
from meeting_push.contracts import Arrival
from meeting_push.deliver.offline_message_queue import OfflineMessageQueue
from meeting_push.model import BroadcastEntry, Message, Sender
from meeting_push.protocol.envelope import broadcast_message, encode_tail
from meeting_push.redis.broadcast_log import BroadcastLog
from meeting_push.redis.claims import GenerationMark
from meeting_push.redis.redis_service import RedisService
from meeting_push.redis.subscriber import Subscriber
from meeting_push.settings import load_settings
from meeting_push.supervision import Aside
from tests.support.eventually import eventually

USER = 7
TTL_MS = 60_000
NOW = 1_800_000_000_000


class NoRecord:
    async def tails(self, message_ids: Sequence[str]) -> dict[str, bytes]:
        return {}


class Town:
    """一份日志，一个节点的目录，可以拨的钟。"""

    def __init__(self, redis: RedisService) -> None:
        self.redis = redis
        self.now = NOW
        self.missed = 0
        self.mark = GenerationMark(redis.lean, redis.keys)
        self.log = BroadcastLog(
            redis.lean,
            redis.keys,
            log_ttl_ms=TTL_MS,
            cursor_ttl_ms=2 * TTL_MS,
            aside=Aside("broadcast-cursors"),
        )
        mailbox = OfflineMessageQueue(redis, NoRecord(), load_settings().messages)
        self.feed = BroadcastFeed(self.log, mailbox, self._on_missed, clock=lambda: self.now)

    def _on_missed(self) -> None:
        self.missed += 1

    async def append(self, number: int, *, ttl_ms: int = TTL_MS) -> int:
        return await self.log.append(
            name(number),
            encode_tail(message(number)),
            priority=0,
            expires_at=self.now + ttl_ms,
            now=self.now,
        )

    async def pending(self) -> list[str]:
        view = await self.feed.open(USER)
        return [entry.message_id for entry in view.entries]

    async def ack(self, *numbers: int) -> None:
        entries = {entry.message_id: entry for entry in await self.log.entries()}
        found = [entries[name(number)] for number in numbers]
        await self.log.advance([(USER, e.broadcast_id, e.previous) for e in found])

    def frame(self, entry: BroadcastEntry) -> bytes:
        tail = encode_tail(message(int(entry.message_id)))
        return broadcast_message(entry.broadcast_id, entry.previous, tail)


def name(number: int) -> str:
    return f"{number:026d}"


def message(number: int) -> Message:
    return Message(
        message_id=name(number),
        message_type="notification",
        priority=0,
        title="标题",
        content="c",
        sender=Sender(1, "root"),
        timestamp=NOW,
        expires_at=NOW + TTL_MS,
    )


@pytest.fixture
async def town(redis: RedisService) -> Town:
    town = Town(redis)
    await town.mark.begin(1, NOW, lost=False)
    return town


# ── 日志 ────────────────────────────────────────────────────────────────────


async def test_ids_rise_even_within_one_millisecond(town: Town) -> None:
    assert [await town.append(n) for n in range(3)] == [NOW, NOW + 1, NOW + 2]


async def test_ids_rise_even_if_the_clock_falls_back(town: Town) -> None:
    await town.append(1)
    town.now -= 5_000
    assert await town.append(2) == NOW + 1


async def test_each_entry_names_the_one_before_it(town: Town) -> None:
    for number in range(3):
        await town.append(number)
    assert [e.previous for e in await town.log.entries()] == [0, NOW, NOW + 1]


async def test_dlv_1_logging_the_same_broadcast_again_changes_nothing(town: Town) -> None:
    first = await town.append(1)
    town.now += 10
    assert await town.append(1) == first
    assert len(await town.log.entries()) == 1


async def test_the_log_is_trimmed_by_time_not_by_count(town: Town) -> None:
    for number in range(50):
        await town.append(number)
    assert len(await town.log.entries()) == 50
    town.now += TTL_MS + 20
    await town.append(99)
    assert [int(e.message_id) for e in await town.log.entries()] == [*range(20, 50), 99]


async def test_the_log_is_read_in_pages(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meeting_push.redis.broadcast_log.PAGE", 2)
    for number in range(5):
        await town.append(number)
    assert [int(e.message_id) for e in await town.log.entries()] == [0, 1, 2, 3, 4]


async def test_what_others_wrote_into_the_log_is_skipped(town: Town) -> None:
    await town.append(1)
    await town.redis.lean.execute("XADD", town.redis.keys.broadcast_log, f"{NOW}-5", "x", "y")
    await town.append(2)
    assert [int(e.message_id) for e in await town.log.entries()] == [1, 2]


async def test_the_published_frame_is_exactly_new_message(town: Town) -> None:
    heard: list[bytes] = []
    subscriber = Subscriber(town.redis.address, town.redis.keys)
    await subscriber.start(lambda _channel, payload: heard.append(payload), lambda: None)
    await subscriber.subscribe_channel(town.redis.keys.broadcast_channel)
    await town.append(1)
    await town.append(1)
    await town.append(2)
    await eventually(lambda: len(heard) == 2)
    assert heard == [town.frame(entry) for entry in await town.log.entries()]
    await subscriber.close()


# ── 游标 ────────────────────────────────────────────────────────────────────


async def opened(town: Town, *numbers: int) -> None:
    """该用户先来过，然后记下这些。"""
    await town.feed.open(USER)
    for number in numbers:
        await town.append(number)
    await town.feed.refresh()


async def test_the_first_visit_starts_at_the_end(town: Town) -> None:
    await town.append(1)
    await town.feed.refresh()
    assert await town.pending() == []


async def test_dlv_1_after_a_loss_a_user_without_a_cursor_starts_at_the_beginning(
    town: Town,
) -> None:
    await town.append(1)
    await town.mark.begin(2, NOW, lost=True)
    await town.feed.refresh()
    assert await town.pending() == [name(1)]


async def test_dlv_1_before_the_loss_is_noticed_he_starts_at_the_beginning(town: Town) -> None:
    await town.append(1)
    await town.feed.refresh()
    await town.redis.client.delete(town.redis.keys.delivery_generation)
    assert await town.pending() == [name(1)]


async def test_a_loss_older_than_the_log_is_forgotten(town: Town) -> None:
    await town.mark.begin(2, NOW, lost=True)
    town.now += TTL_MS
    await town.append(1)
    await town.feed.refresh()
    assert await town.pending() == []


async def test_a_loss_stays_known_while_the_mark_advances(town: Town) -> None:
    await town.mark.begin(2, NOW, lost=True)
    assert await town.mark.advance(2, 1, NOW + 5)
    assert await town.mark.lost_after(NOW - 1)


async def test_dlv_4_an_ack_without_a_cursor_passes_nothing_over(town: Town) -> None:
    await opened(town, 1, 2, 3)
    await town.redis.client.delete(town.redis.keys.broadcast_cursor(USER))
    await town.ack(2)
    assert await town.pending() == [name(1), name(3)]


async def test_acks_in_any_order_leave_exactly_the_unacked(town: Town) -> None:
    await opened(town, 1, 2, 3, 4)
    await town.ack(4, 2)
    assert await town.pending() == [name(1), name(3)]
    await town.ack(1)
    assert await town.pending() == [name(3)]
    await town.ack(3)
    assert await town.pending() == []


async def test_a_cursor_with_everything_acked_is_one_field(town: Town) -> None:
    await opened(town, 1, 2, 3)
    await town.ack(3, 2, 1)
    cursor = town.redis.keys.broadcast_cursor(USER)
    assert await town.redis.lean.execute("HGETALL", cursor) == [b"at", str(NOW + 2).encode()]


async def test_acks_are_idempotent(town: Town) -> None:
    await opened(town, 1, 2)
    await town.ack(1, 1)
    await town.ack(1)
    assert await town.pending() == [name(2)]


async def test_an_expired_broadcast_does_not_hold_the_cursor_back(town: Town) -> None:
    await town.feed.open(USER)
    await town.append(1, ttl_ms=10)
    await town.append(2)
    await town.feed.refresh()
    town.now += 20
    await town.ack(2)
    assert await town.pending() == []
    cursor = town.redis.keys.broadcast_cursor(USER)
    assert await town.redis.lean.execute("HLEN", cursor) == 1


async def test_cursor_and_log_expire(town: Town) -> None:
    await opened(town, 1)
    keys = town.redis.keys
    names = (keys.broadcast_log, keys.broadcast_ids, keys.broadcast_cursor(USER))
    log, ids, cursor = [await town.redis.lean.execute("PTTL", key) for key in names]
    assert 0 < log <= TTL_MS
    assert 0 < ids <= TTL_MS
    assert cursor > TTL_MS


# ── 目录 ────────────────────────────────────────────────────────────────────


async def test_frames_in_log_order_extend_the_feed(town: Town) -> None:
    await town.append(1)
    await town.append(2)
    entries = await town.log.entries()
    assert [town.feed.arrived(town.frame(e)) for e in entries] == [NOW, NOW + 1]
    assert [e.message_id for e in town.feed.after(NOW).entries] == [name(2)]


async def test_dlv_5_a_frame_after_a_missed_one_is_not_pushed_before_it(town: Town) -> None:
    for number in (1, 2, 3):
        await town.append(number)
    one, _, three = await town.log.entries()
    town.feed.arrived(town.frame(one))
    assert town.feed.arrived(town.frame(three)) is Arrival.MISSED
    assert town.missed == 1
    assert (town.feed.heard, town.feed.missed) == (1, 1)
    await town.feed.refresh()
    assert [int(e.message_id) for e in town.feed.after(one.broadcast_id).entries] == [2, 3]


async def test_a_foreign_frame_is_transient(town: Town) -> None:
    assert town.feed.arrived(b'{"type":"new_message","message_id":"m","title":"t"}') is None
    assert town.feed.arrived(b'{"type":"notice","code":"x","reconnect_after_ms":1}') is None


async def test_a_number_from_the_future_is_not_believed(town: Town) -> None:
    await town.append(1)
    [entry] = await town.log.entries()
    far = BroadcastEntry(NOW + 10**9, 0, entry.message_id, 0, entry.expires_at)
    assert town.feed.arrived(town.frame(far)) is None
    assert town.feed.arrived(town.frame(entry)) == NOW


async def test_an_old_number_again_is_recognised(town: Town) -> None:
    await town.append(1)
    [entry] = await town.log.entries()
    await town.feed.refresh()
    assert town.feed.arrived(town.frame(entry)) == NOW


async def lost_and_logged_again(town: Town, *numbers: int) -> list[object]:
    """Redis 丢了日志，又记了一遍；返回目录让连接们按哪些号记账。"""
    keys = town.redis.keys
    await town.redis.client.delete(keys.broadcast_log, keys.broadcast_ids)
    town.now += 1_000
    for number in numbers:
        await town.append(number)
    return [town.feed.arrived(town.frame(entry)) for entry in await town.log.entries()]


async def test_what_is_logged_again_is_known_by_its_first_number(town: Town) -> None:
    await opened(town, 1, 2)
    assert await lost_and_logged_again(town, 1, 2, 3) == [NOW, NOW + 1, NOW + 1_002]
    assert [int(e.message_id) for e in town.feed.after(NOW + 1).entries] == [3]


async def test_what_is_logged_again_has_its_new_number_for_cursors(town: Town) -> None:
    await opened(town, 1, 2)
    await town.ack(1, 2)
    await lost_and_logged_again(town, 1, 2)
    found = town.feed.find(name(1))
    assert found is not None
    assert (found.broadcast_id, found.previous) == (NOW + 1_000, 0)
    assert await town.pending() == [name(1), name(2)]


async def test_what_is_not_logged_again_yet_is_still_in_the_feed(town: Town) -> None:
    await opened(town, 1, 2)
    await lost_and_logged_again(town, 1)
    await town.feed.refresh()
    assert await town.pending() == [name(2), name(1)]


async def test_expired_broadcasts_are_forgotten(town: Town) -> None:
    await town.append(1, ttl_ms=10)
    await town.feed.refresh()
    assert town.feed.find(name(1)) is not None
    town.now += 20
    await town.append(2)
    await town.feed.refresh()
    assert town.feed.find(name(1)) is None
    assert town.feed.find(name(2)) is not None
