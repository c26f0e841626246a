"""信箱：先进信箱后推、幂等、次序、续传、正文重做、上限。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from ulid import ULID

from meeting_push.clock import now_ms
from meeting_push.deliver.offline_message_queue import Delivered, Delivery, OfflineMessageQueue
from meeting_push.errors import DatabaseUnavailableError
from meeting_push.mailbox_model import MailboxEntry, ResumePoint
from meeting_push.model import Message, Sender
from meeting_push.protocol import envelope
from meeting_push.redis.mailboxes import CALL_RECIPIENTS
from meeting_push.redis.redis_service import RedisService
from meeting_push.redis.sharded_subscriber import subscriber_for
from meeting_push.settings import load_settings
from tests.support.eventually import eventually

USER = 7
HOUR_MS = 3_600_000
WEEK_MS = 7 * 24 * HOUR_MS


class Record:
    """``contracts.BodySource`` 的替身：一份记录，和被问过的 id。"""

    def __init__(self) -> None:
        self.known: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.down = False

    async def tails(self, message_ids: Sequence[str]) -> dict[str, bytes]:
        self.asked += message_ids
        if self.down:
            raise DatabaseUnavailableError("down")
        return {i: self.known[i] for i in message_ids if i in self.known}


class Post:
    """一个信箱服务，连同它的 Redis、记录和频道上听到的一切。"""

    def __init__(self, redis: RedisService, **settings: object) -> None:
        self.redis = redis
        self.record = Record()
        self.queue = OfflineMessageQueue(redis, self.record, load_settings(**settings).messages)
        self.heard: list[bytes] = []

    async def deliver(
        self, *messages: Message, to: Sequence[int] = (USER,), attempt: int = 0
    ) -> list[list[Delivered]]:
        await self.store(*messages)
        return await self.queue.deliver([delivery(m, to, attempt) for m in messages])

    async def store(self, *messages: Message) -> None:
        await self.queue.store_bodies(
            [(m.message_id, envelope.encode_tail(m), m.priority, m.expires_at) for m in messages]
        )

    async def lose_body(self, message: Message) -> None:
        await self.redis.lean.execute("DEL", self.redis.keys.message_body(message.message_id))

    async def seqs(self, resume: ResumePoint | None = None) -> list[int]:
        return [entry.seq for entry in (await self.queue.open(USER, resume)).entries]


def make_message(priority: int = 0, content: str = "hello", ttl_ms: int = HOUR_MS) -> Message:
    now = now_ms()
    return Message(
        message_id=str(ULID()),
        message_type="message",
        priority=priority,
        title="标题",
        content=content,
        sender=Sender(1, "ann"),
        timestamp=now,
        expires_at=now + ttl_ms,
    )


def delivery(message: Message, to: Sequence[int], attempt: int = 0) -> Delivery:
    return Delivery(
        message_id=message.message_id,
        tail=envelope.encode_tail(message),
        recipient_ids=tuple(to),
        priority=message.priority,
        expires_at=message.expires_at,
        attempt=attempt,
    )


@pytest.fixture
def post(redis: RedisService) -> Post:
    return Post(redis)


@pytest.fixture
async def listening(post: Post) -> AsyncIterator[Post]:
    subscriber = subscriber_for(post.redis.lean, post.redis.keys)
    await subscriber.start(lambda channel, payload: post.heard.append(payload), lambda: None)
    await subscriber.subscribe(USER)
    yield post
    await subscriber.close()


# ── 投递 ────────────────────────────────────────────────────────────────────


async def test_a_delivery_gets_the_next_seq_of_each_user(post: Post) -> None:
    [first, second] = await post.deliver(make_message(), make_message(), to=(7, 8))
    assert [(one.user_id, one.seq) for one in first] == [(7, 1), (8, 1)]
    assert [(one.user_id, one.seq) for one in second] == [(7, 2), (8, 2)]


async def test_the_published_frame_is_exactly_new_message(listening: Post) -> None:
    message = make_message(content='引号 " 反斜线 \\ 百分号 %d 换行 \n')
    [[delivered]] = await listening.deliver(message)
    await listening.deliver(message, attempt=2)
    await eventually(lambda: len(listening.heard) == 2)
    tail = envelope.encode_tail(message)
    assert listening.heard == [envelope.new_message(1, 0, tail), envelope.new_message(1, 2, tail)]
    assert delivered.receivers == 1


async def test_nobody_listening_is_zero_receivers_and_the_message_is_kept(post: Post) -> None:
    message = make_message()
    [[delivered]] = await post.deliver(message)
    assert delivered == Delivered(USER, 1, 0, False)
    view = await post.queue.open(USER)
    assert view.entries == (MailboxEntry(1, message.message_id, 0),)


async def test_delivering_again_keeps_the_seq_and_pushes_again(listening: Post) -> None:
    message = make_message()
    await listening.deliver(message)
    [[again]] = await listening.deliver(message, attempt=1)
    assert (again.seq, again.receivers, again.acked) == (1, 1, False)
    await eventually(lambda: len(listening.heard) == 2)
    assert listening.heard[1] == envelope.new_message(1, 1, envelope.encode_tail(message))


async def test_delivering_again_leaves_no_hole_in_the_seq(post: Post) -> None:
    first = make_message()
    await post.deliver(first)
    await post.deliver(first)
    [[second]] = await post.deliver(make_message())
    assert second.seq == 2


async def test_delivering_what_was_acked_does_nothing(listening: Post) -> None:
    message = make_message()
    await listening.deliver(message)
    await listening.queue.remove([(USER, [message.message_id])])
    [[again]] = await listening.deliver(message, attempt=1)
    assert again == Delivered(USER, 1, 0, True)
    await listening.deliver(make_message())
    await eventually(lambda: len(listening.heard) == 2)
    assert await listening.seqs() == [2]


async def test_a_retry_keeps_its_seq_after_the_log_was_trimmed(redis: RedisService) -> None:
    post = Post(redis, message_log_max_entries=4)
    old = make_message()
    await post.deliver(old)
    for _ in range(32):
        message = make_message()
        await post.deliver(message)
        await post.queue.remove([(USER, [message.message_id])])
    [[again]] = await post.deliver(old, attempt=1)
    assert (again.seq, again.acked) == (1, False)
    [[after]] = await post.deliver(make_message())
    assert after.seq == 34


async def test_a_batch_larger_than_one_call_is_in_order(post: Post) -> None:
    users = range(1, CALL_RECIPIENTS + 51)
    rows = await post.deliver(make_message(), make_message(), to=users)
    assert [[(one.user_id, one.seq) for one in row] for row in rows] == [
        [(user, seq) for user in users] for seq in (1, 2)
    ]


async def test_delivering_to_nobody_is_an_empty_row(post: Post) -> None:
    assert await post.deliver(make_message(), to=()) == [[]]
    assert await post.queue.deliver([]) == []


async def test_concurrent_deliveries_never_share_a_seq(post: Post) -> None:
    rows = await asyncio.gather(*(post.deliver(make_message()) for _ in range(50)))
    assert sorted(one.seq for [[one]] in rows) == list(range(1, 51))


async def test_a_large_seq_is_written_without_an_exponent(listening: Post) -> None:
    seq = 2**53 - 2
    await listening.redis.lean.execute("HSET", listening.redis.keys.user_seq(USER), "seq", seq)
    message = make_message()
    [[delivered]] = await listening.deliver(message)
    [[again]] = await listening.deliver(message)
    assert delivered.seq == again.seq == seq + 1
    await eventually(lambda: len(listening.heard) == 2)
    assert [envelope.peek(frame) for frame in listening.heard] == [
        (seq + 1, message.message_id),
        (seq + 1, message.message_id),
    ]
    assert await listening.seqs() == [seq + 1]


async def test_every_key_expires(post: Post) -> None:
    message = make_message()
    await post.deliver(message)
    keys = post.redis.keys
    names = (keys.mailbox(USER), keys.message_log(USER), keys.user_seq(USER))
    mailbox, log, seq = [await post.redis.lean.execute("PTTL", name) for name in names]
    assert 0 < mailbox <= WEEK_MS
    assert 0 < log <= WEEK_MS
    assert seq > mailbox
    body = await post.redis.lean.execute("PTTL", keys.message_body(message.message_id))
    assert 0 < body <= HOUR_MS


async def test_a_delivery_prolongs_the_mailbox_to_the_full(post: Post) -> None:
    await post.deliver(make_message())
    mailbox = post.redis.keys.mailbox(USER)
    await post.redis.lean.execute("PEXPIRE", mailbox, WEEK_MS - 30_000)
    await post.deliver(make_message())
    assert await post.redis.lean.execute("PTTL", mailbox) > WEEK_MS - 30_000


@pytest.mark.parametrize("age", [0.02, 0.5])
async def test_a_delivery_prolongs_log_and_seq_once_a_hundredth_is_gone(
    age: float, post: Post
) -> None:
    await post.deliver(make_message())
    log, seq = post.redis.keys.message_log(USER), post.redis.keys.user_seq(USER)
    whole_seq = await post.redis.lean.execute("PTTL", seq)
    await post.redis.lean.execute("PEXPIRE", log, int(WEEK_MS * (1 - age)))
    await post.redis.lean.execute("PEXPIRE", seq, whole_seq - int(WEEK_MS * age))
    await post.deliver(make_message())
    assert await post.redis.lean.execute("PTTL", log) > WEEK_MS - HOUR_MS
    assert await post.redis.lean.execute("PTTL", seq) > whole_seq - HOUR_MS


@pytest.mark.parametrize(
    ("key", "least_ms"), [("message_log", WEEK_MS - HOUR_MS), ("user_seq", WEEK_MS)]
)
async def test_what_was_lost_is_made_anew_with_a_ttl(key: str, least_ms: int, post: Post) -> None:
    await post.deliver(make_message())
    name = getattr(post.redis.keys, key)(USER)
    await post.redis.lean.execute("DEL", name)
    await post.deliver(make_message())
    assert await post.redis.lean.execute("PTTL", name) > least_ms


# ── 连接时读取 ───────────────────────────────────────────────────────────────


async def test_a_new_user_gets_an_epoch_that_stays(post: Post) -> None:
    first = await post.queue.open(USER)
    await post.deliver(make_message())
    second = await post.queue.open(USER)
    assert (first.seq, second.seq) == (0, 1)
    assert first.epoch == second.epoch != ""


async def test_users_have_different_epochs(post: Post) -> None:
    assert (await post.queue.open(1)).epoch != (await post.queue.open(2)).epoch


async def test_urgent_first_then_by_seq(post: Post) -> None:
    await post.deliver(*(make_message(priority) for priority in (0, 9, 5, 9, 0)))
    assert await post.seqs() == [2, 4, 3, 1, 5]


async def test_open_takes_nothing_away(post: Post) -> None:
    await post.deliver(make_message())
    assert await post.seqs() == await post.seqs() == [1]


async def test_load_gives_the_frames_in_the_given_order(redis: RedisService) -> None:
    post = Post(redis, compress_above_bytes=100)
    messages = [make_message(content="x" * 5000), make_message(content="y")]
    await post.deliver(*messages)
    view = await post.queue.open(USER)
    assert await post.queue.load(view.entries) == [
        envelope.new_message(seq, 0, envelope.encode_tail(message))
        for seq, message in enumerate(messages, 1)
    ]


async def test_load_leaves_out_what_expired_meanwhile(post: Post) -> None:
    gone, kept = make_message(), make_message()
    await post.deliver(gone, kept)
    view = await post.queue.open(USER)
    await post.lose_body(gone)
    [frame] = await post.queue.load(view.entries)
    assert envelope.peek(frame) == (2, kept.message_id)


async def test_load_of_more_than_one_chunk(post: Post) -> None:
    await post.deliver(*(make_message() for _ in range(250)))
    view = await post.queue.open(USER)
    assert len(await post.queue.load(view.entries)) == 250


async def test_resume_gives_everything_after_last_seq_even_if_acked(post: Post) -> None:
    messages = [make_message() for _ in range(4)]
    await post.deliver(*messages)
    await post.queue.remove([(USER, [m.message_id for m in messages])])
    epoch = (await post.queue.open(USER)).epoch
    view = await post.queue.open(USER, ResumePoint(epoch, 2))
    assert view.resumed
    assert view.resync_reason is None
    assert [entry.seq for entry in view.entries] == [3, 4]


async def test_resume_also_repeats_what_was_applied_but_never_acked(post: Post) -> None:
    messages = [make_message() for _ in range(3)]
    await post.deliver(*messages)
    await post.queue.remove([(USER, [messages[1].message_id])])
    epoch = (await post.queue.open(USER)).epoch
    assert await post.seqs(ResumePoint(epoch, 2)) == [1, 3]


async def test_resume_at_the_newest_seq_is_resumed_with_nothing(post: Post) -> None:
    message = make_message()
    await post.deliver(message)
    await post.queue.remove([(USER, [message.message_id])])
    epoch = (await post.queue.open(USER)).epoch
    view = await post.queue.open(USER, ResumePoint(epoch, 1))
    assert (view.resumed, view.entries) == (True, ())


@pytest.mark.parametrize(("own_epoch", "last_seq"), [(False, 1), (True, 2), (True, 10**15)])
async def test_another_epoch_or_a_seq_from_the_future_is_a_resync(
    post: Post, own_epoch: bool, last_seq: int
) -> None:
    await post.deliver(make_message())
    epoch = (await post.queue.open(USER)).epoch if own_epoch else "0123456789abcdef"
    view = await post.queue.open(USER, ResumePoint(epoch, last_seq))
    assert (view.resumed, view.resync_reason) == (False, "epoch_changed")
    assert [entry.seq for entry in view.entries] == [1]


async def test_a_seq_that_went_back_is_a_new_epoch_for_every_device(post: Post) -> None:
    """E1：推过的号 Redis 不记得了，会再用一遍；从此谁的旧位置都不算，新的不会被当成重复。"""
    await post.deliver(make_message())
    epoch = (await post.queue.open(USER)).epoch
    claimed = await post.queue.open(USER, ResumePoint(epoch, 2))
    assert (claimed.epoch, claimed.resync_reason) == (epoch, "epoch_changed")
    proven = await post.queue.open(USER, ResumePoint(epoch, 2, proven=True))
    assert proven.epoch != epoch
    assert proven.resync_reason == "epoch_changed"
    assert (await post.queue.open(USER, ResumePoint(epoch, 1))).resync_reason == "epoch_changed"


async def test_the_numbers_of_a_new_generation_are_out_of_reach_of_the_old_one(post: Post) -> None:
    """换过主的：旧的主还会发出的号都在新的以下，会话当作推过的。"""
    await post.deliver(make_message())
    before = await post.queue.open(USER)
    post.queue.generation += 1
    renewed = await post.queue.open(USER, ResumePoint(before.epoch, before.seq, proven=True))
    assert renewed.resync_reason == "epoch_changed"
    assert renewed.seq > before.seq + 1
    [[following]] = await post.deliver(make_message())
    assert following.seq == renewed.seq + 1
    resumed = await post.queue.open(USER, ResumePoint(renewed.epoch, renewed.seq))
    assert resumed.resumed
    assert [entry.seq for entry in resumed.entries] == [before.seq, following.seq]


async def test_who_connects_to_an_emptied_redis_keeps_his_epoch_when_the_generation_changes(
    post: Post,
) -> None:
    """E12：在换代次之前连上的，也只得一帧 ``resync``。"""
    post.queue.generation = 4
    await post.deliver(make_message())
    post.queue.presume_emptied(True)
    before = await post.queue.open(USER, ResumePoint("4-1234", 1))
    assert before.resync_reason == "epoch_changed"
    post.queue.generation = 5
    after = await post.queue.open(USER, ResumePoint(before.epoch, before.seq))
    assert (after.epoch, after.resync_reason) == (before.epoch, None)


async def test_a_log_that_does_not_reach_back_is_too_far_behind(redis: RedisService) -> None:
    post = Post(redis, message_log_max_entries=8)
    messages = [make_message() for _ in range(16)]
    await post.deliver(*messages)
    await post.queue.remove([(USER, [m.message_id for m in messages])])
    epoch = (await post.queue.open(USER)).epoch
    assert (await post.queue.open(USER, ResumePoint(epoch, 8))).resumed
    behind = await post.queue.open(USER, ResumePoint(epoch, 7))
    assert (behind.resumed, behind.resync_reason) == (False, "too_far_behind")


async def test_an_expired_log_is_too_far_behind(post: Post) -> None:
    await post.deliver(make_message())
    epoch = (await post.queue.open(USER)).epoch
    await post.redis.lean.execute("DEL", post.redis.keys.message_log(USER))
    view = await post.queue.open(USER, ResumePoint(epoch, 0))
    assert view.resync_reason == "too_far_behind"


# ── 正文丢失 ─────────────────────────────────────────────────────────────────


async def test_a_lost_body_is_made_again_from_the_record(post: Post) -> None:
    message = make_message(priority=8)
    await post.deliver(message)
    await post.lose_body(message)
    post.record.known[message.message_id] = envelope.encode_tail(message)
    view = await post.queue.open(USER)
    assert view.entries == (MailboxEntry(1, message.message_id, 8),)
    assert await post.queue.load(view.entries) == [
        envelope.new_message(1, 0, envelope.encode_tail(message))
    ]
    assert (post.queue.restored, post.queue.dropped) == (1, 0)


async def test_a_body_that_can_not_be_put_back_is_given_all_the_same(post: Post) -> None:
    """Redis 满了；Cluster 上它的主不在而收件人的信箱在，也一样。"""
    message = make_message()
    await post.deliver(message)
    await post.lose_body(message)
    tail = post.record.known[message.message_id] = envelope.encode_tail(message)
    await post.redis.lean.everywhere("CONFIG", "SET", "maxmemory", 1)
    try:
        found = await post.queue.tails([message.message_id])
    finally:
        await post.redis.lean.everywhere("CONFIG", "SET", "maxmemory", 0)
    assert found == {message.message_id: tail}
    assert post.queue.restored == 0


async def test_a_body_nobody_knows_is_dropped_from_the_mailbox(post: Post) -> None:
    gone, kept = make_message(), make_message()
    await post.deliver(gone, kept)
    await post.lose_body(gone)
    assert await post.seqs() == [2]
    assert await post.queue.get_offline_message_count(USER) == 1
    assert post.queue.dropped == 1


async def test_an_expired_message_is_dropped_even_if_the_record_knows_it(post: Post) -> None:
    message = make_message(ttl_ms=-1)
    await post.deliver(message)
    post.record.known[message.message_id] = envelope.encode_tail(message)
    assert await post.seqs() == []
    assert await post.queue.get_offline_message_count(USER) == 0


async def test_a_record_that_is_down_drops_nothing(post: Post) -> None:
    lost, kept = make_message(), make_message()
    await post.deliver(lost, kept)
    await post.lose_body(lost)
    post.record.down = True
    view = await post.queue.open(USER)
    assert [entry.seq for entry in view.entries] == [2]
    assert await post.queue.get_offline_message_count(USER) == 2
    post.record.down = False
    post.record.known[lost.message_id] = envelope.encode_tail(lost)
    assert await post.seqs() == [1, 2]


async def test_what_can_not_be_known_now_is_a_resync_not_silence(post: Post) -> None:
    """E1：正文没了，记录也问不到：也许还会来，所以不是 ``gap``，但也不能不说。"""
    pushed, lost = make_message(), make_message()
    await post.deliver(pushed, lost)
    epoch = (await post.queue.open(USER)).epoch
    await post.lose_body(pushed)
    await post.lose_body(lost)
    post.record.down = True
    view = await post.queue.open(USER, ResumePoint(epoch, 1, proven=True))
    assert (view.resync_reason, view.expired) == ("too_far_behind", ())
    already = await post.queue.open(USER, ResumePoint(epoch, 2, proven=True))
    assert already.resync_reason is None


async def test_the_record_is_not_asked_while_nothing_is_missing(post: Post) -> None:
    await post.deliver(make_message())
    await post.queue.open(USER)
    assert post.record.asked == []


async def test_tails_come_from_redis_or_the_record(post: Post) -> None:
    stored, lost, unknown = make_message(), make_message(), make_message()
    await post.store(stored)
    post.record.known[lost.message_id] = envelope.encode_tail(lost)
    ids = [m.message_id for m in (stored, lost, unknown)]
    assert await post.queue.tails(ids) == {
        m.message_id: envelope.encode_tail(m) for m in (stored, lost)
    }


# ── 确认 ────────────────────────────────────────────────────────────────────


async def test_remove_only_touches_the_named_user(post: Post) -> None:
    message = make_message()
    await post.deliver(message, to=(7, 8))
    assert await post.queue.remove([(7, [message.message_id]), (9, [])]) == 1
    assert await post.queue.remove([(7, [message.message_id])]) == 0
    assert await post.queue.get_offline_message_count(8) == 1


async def test_contains_tells_held_acked_and_unknown_apart(post: Post) -> None:
    held, acked, foreign = make_message(), make_message(), make_message()
    await post.deliver(held, acked)
    await post.deliver(foreign, to=(8,))
    await post.queue.remove([(USER, [acked.message_id])])
    ids = [held.message_id, acked.message_id, foreign.message_id]
    assert await post.queue.contains(USER, ids) == ([ids[0]], [ids[1]], [ids[2]])
    assert await post.queue.contains(USER, []) == ([], [], [])


# ── 需求文档的方法 ─────────────────────────────────────────────────────────────


async def test_add_offline_message_keeps_without_pushing(listening: Post) -> None:
    message = make_message()
    assert await listening.queue.add_offline_message(USER, message) == 1
    assert await listening.queue.add_offline_message(USER, message) == 1
    pushed = make_message()
    await listening.deliver(pushed)
    await eventually(lambda: listening.heard)
    assert [envelope.peek(frame) for frame in listening.heard] == [(2, pushed.message_id)]


async def test_get_offline_messages_is_urgent_first_and_limited(post: Post) -> None:
    low, high = make_message(0, "low"), make_message(9, "high")
    for message in (low, high, make_message(0, "third")):
        await post.queue.add_offline_message(USER, message)
    found = await post.queue.get_offline_messages(USER, limit=2)
    assert [(m.entry.seq, m.tail.content) for m in found] == [(2, "high"), (1, "low")]


async def test_clear_empties_the_mailbox_and_says_how_many(post: Post) -> None:
    await post.deliver(make_message(), make_message())
    assert await post.queue.get_offline_message_count(USER) == 2
    assert await post.queue.clear_offline_messages(USER) == 2
    assert await post.queue.get_offline_message_count(USER) == 0
    assert await post.queue.get_offline_messages(USER) == []
