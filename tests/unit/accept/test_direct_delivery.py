"""决定 0014：小的、此刻的由收下它的进程直接投递；别的走队列。看次序与条数，不看钟。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import pytest

from meeting_push.accept import direct_delivery
from meeting_push.accept.direct_delivery import DirectDelivery
from meeting_push.accept.outbox_relay import OutboxRelay
from meeting_push.errors import RedisUnavailableError
from meeting_push.limits.send_limits import FairShares
from meeting_push.model import Message, MessageKind, Outgoing, Sender
from meeting_push.queue.message_queue import MessageQueue
from meeting_push.redis.link import Command
from meeting_push.supervision import Aside
from tests.support.parts import USER, Parts
from tests.support.queueing import message_consumer, message_queue, outbox_turn

OTHER, THIRD = 8, 9
MOST = 3
ALICE, CAROL = Sender(1, "alice"), Sender(2, "carol")


class Door:
    """一个进程的快路；``now`` 是拨得动的秒。"""

    def __init__(self, parts: Parts, *, share: float = 100) -> None:
        self.parts = parts
        self.now = 1_000.0
        self.aside = Aside("outbox")
        self.direct = DirectDelivery(
            *(parts.mailbox, parts.queue),
            most_recipients=MOST,
            aside=self.aside,
            clock=lambda: self.now,
        )
        self.relay = relay_of(parts, share, self.direct)

    async def send(self, *to: int, sender: Sender = ALICE, **fields: Any) -> str:
        """接受并送走一条。"""
        message = await self.parts.accept(*to, sender=sender, **fields)
        await self.submit((message, to))
        return message.message_id

    async def submit(self, *posts: tuple[Message, Sequence[int]]) -> None:
        self.relay.submit(Outgoing(message, tuple(to)) for message, to in posts)
        await self.relay.drain()

    async def seqs(self, user_id: int = USER) -> dict[str, int]:
        key = self.parts.redis.keys.mailbox(user_id)
        flat = await self.parts.redis.lean.execute("ZRANGE", key, 0, -1, "WITHSCORES")
        return {one.decode(): int(seq) for one, seq in zip(flat[::2], flat[1::2], strict=True)}

    async def queued(self) -> int:
        return await self.parts.queue.streams.backlog()


def relay_of(parts: Parts, share: float, direct: DirectDelivery | None = None) -> OutboxRelay:
    return OutboxRelay(
        messages=parts.messages,
        queue=parts.queue,
        mailbox=parts.mailbox,
        chunk_recipients=500,
        shares=FairShares(share, share),
        interval_s=60,
        grace_s=0,
        clock=parts.clock,
        aside=Aside("outbox"),
        turn=outbox_turn(parts.redis),
        direct=direct,
    )


@pytest.fixture
def door(parts: Parts) -> Door:
    return Door(parts)


async def spoil(door: Door, key: str) -> None:
    await door.parts.redis.lean.execute("SET", key, "x")


# ── 谁走短路 ────────────────────────────────────────────────────────────────


async def test_a_small_message_is_delivered_without_the_queue(door: Door) -> None:
    message_id = await door.send(USER, OTHER)
    assert await door.seqs(USER) == await door.seqs(OTHER) == {message_id: 1}
    assert await door.queued() == 0
    [entry] = await door.parts.mailbox.get_offline_messages(USER)
    assert entry.tail.message_id == message_id


async def test_its_status_is_open_and_its_ack_counts(door: Door) -> None:
    message_id = await door.send(USER)
    await door.parts.ack(message_id)
    assert await door.parts.status(message_id) == ("delivered", None)
    assert await door.parts.redis_status(message_id) == "delivered"


async def test_once_marked_the_sweep_does_not_see_it(door: Door) -> None:
    await door.send(USER)
    door.parts.now += 1
    assert await door.relay.sweep(0) == 0


async def test_many_recipients_go_through_the_queue(door: Door) -> None:
    await door.send(*range(1_000, 1_001 + MOST))
    assert await door.queued() == 1
    assert await door.seqs(1_000) == {}


async def test_a_scheduled_message_goes_through_the_queue(door: Door) -> None:
    await door.send(USER, deliver_at=door.parts.now + 1_000)
    assert len(await door.parts.delayed()) == 1
    assert await door.seqs() == {}


async def test_a5_what_is_beyond_the_share_goes_the_slow_lane(parts: Parts) -> None:
    door = Door(parts, share=2)
    sent = [await door.send(USER) for _ in range(4)]
    assert list(await door.seqs()) == sent[:2]
    bulk = parts.redis.keys.bulk_queue
    assert await parts.redis.lean.execute("XLEN", bulk) == 2


async def test_an_expired_message_is_not_delivered(door: Door) -> None:
    message = await door.parts.accept(USER, ttl_ms=10)
    door.parts.now += 20
    await door.submit((message, [USER]))
    assert await door.seqs() == {}
    assert await door.relay.sweep(0) == 0


async def test_without_direct_delivery_everything_is_queued(parts: Parts) -> None:
    message = await parts.accept(USER)
    relay = relay_of(parts, 100)
    relay.submit([Outgoing(message, (USER,))])
    await relay.drain()
    assert await parts.queue.streams.backlog() == 1


async def test_it_is_counted_by_kind(door: Door) -> None:
    await door.send(USER, OTHER, priority=7, message_type="system")
    tally = door.direct.tally
    assert (tally.messages, tally.recipients, tally.reached) == (1, 2, 0)
    assert tally.delivered == {MessageKind("system", 7): 2}


# ── 次序 ────────────────────────────────────────────────────────────────────


async def test_dlv_3_one_sender_is_numbered_in_the_order_of_his_posts(parts: Parts) -> None:
    door = Door(parts, share=1_000)
    posts = [(await door.parts.accept(USER), [USER]) for _ in range(250)]
    await door.submit(*posts)
    assert list(await door.seqs()) == [message.message_id for message, _ in posts]


async def test_the_urgent_of_one_batch_are_delivered_first(door: Door) -> None:
    calm, urgent = await door.parts.accept(USER), await door.parts.accept(USER, priority=9)
    await door.submit((calm, [USER]), (urgent, [USER]))
    assert list(await door.seqs()) == [urgent.message_id, calm.message_id]


async def test_the_urgent_do_not_wait_for_what_waits(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meeting_push.accept.outbox_relay.FAST_MESSAGES", 5)
    calm = [(await door.parts.accept(USER), [USER]) for _ in range(20)]
    urgent = await door.parts.accept(USER, priority=9)
    await door.submit(*calm, (urgent, [USER]))
    assert next(iter(await door.seqs())) == urgent.message_id


async def test_what_follows_a_queued_message_of_its_sender_follows_it(door: Door) -> None:
    """前一条很大，走了队列；后一条不超过它。别的发送者不跟。"""
    await door.send(USER, *range(1_000, 1_000 + MOST))
    await door.send(USER)
    other = await door.send(USER, sender=CAROL)
    assert await door.queued() == 2
    assert list(await door.seqs()) == [other]


async def test_in_one_batch_too(door: Door) -> None:
    large = (await door.parts.accept(*range(1_000, 1_001 + MOST)), range(1_000, 1_001 + MOST))
    small = (await door.parts.accept(1_000), [1_000])
    await door.submit(large, small)
    assert await door.queued() == 2


async def test_once_the_queue_was_seen_empty_he_goes_directly_again(door: Door) -> None:
    await door.send(*range(1_000, 1_001 + MOST))
    room = door.parts.queue.room
    room.empty_at = door.now  # 开始看时条目可能还没有放进去：不算
    await door.send(USER)
    assert await door.seqs() == {}
    room.empty_at = door.now = door.now + 0.1
    message_id = await door.send(USER)
    assert list(await door.seqs()) == [message_id]


async def test_a_long_backlog_does_not_keep_him_in_the_queue(door: Door) -> None:
    await door.send(*range(1_000, 1_001 + MOST))
    door.now += direct_delivery.HOLD_S / 2
    await door.send(USER)
    assert await door.seqs() == {}
    door.now += direct_delivery.HOLD_S / 2 + 0.1
    message_id = await door.send(USER)
    assert list(await door.seqs()) == [message_id]


async def test_the_room_knows_when_it_last_saw_the_queues_empty(parts: Parts) -> None:
    room = parts.queue.room
    await room._look_again()
    seen = room.empty_at
    assert seen > 0
    await Door(parts).send(*range(1_000, 1_001 + MOST))
    await room._look_again()
    assert room.empty_at == seen


# ── 交还给队列 ───────────────────────────────────────────────────────────────


async def test_a_process_that_fell_behind_leaves_it_to_the_queue(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meeting_push.accept.outbox_relay.FAST_MESSAGES", 2)
    monkeypatch.setattr(direct_delivery, "BEHIND_MESSAGES", 2)
    senders = [Sender(n, "s") for n in range(1, 7)]
    posts = [(await door.parts.accept(USER, sender=one), [USER]) for one in senders]
    await door.submit(*posts)
    assert await door.queued() == 2
    assert len(await door.seqs()) == 4


async def test_a_slow_redis_is_left_to_the_queue_for_a_while(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_delivery, "SLOW_S", -1)
    first = await door.send(USER)
    await door.send(USER)
    assert (list(await door.seqs()), await door.queued()) == ([first], 1)
    door.now += direct_delivery.REST_S + direct_delivery.HOLD_S + 0.1
    third = await door.send(USER)
    assert list(await door.seqs()) == [first, third]


async def test_b1_a_spoiled_mailbox_is_left_to_the_consumers(door: Door) -> None:
    """消费者把它挑出来，别人的照样到。"""
    await spoil(door, door.parts.redis.keys.mailbox(USER))
    bad, good = await door.parts.accept(USER), await door.parts.accept(OTHER, sender=CAROL)
    await door.submit((bad, [USER]), (good, [OTHER]))
    assert (await door.queued(), door.direct.tally.handed_back) == (2, 2)
    await consume(door.parts.queue, door.parts)
    assert list(await door.seqs(OTHER)) == [good.message_id]


async def test_b1_a_spoiled_status_stops_nothing(door: Door) -> None:
    message = await door.parts.accept(USER)
    await spoil(door, door.parts.redis.keys.delivery_status(message.message_id))
    await door.submit((message, [USER]))
    assert list(await door.seqs()) == [message.message_id]
    assert (await door.queued(), door.aside.count) == (0, 1)


async def test_redis_that_forgot_the_script_is_told_again(door: Door) -> None:
    await door.parts.redis.lean.execute("SCRIPT", "FLUSH")
    message_id = await door.send(USER)
    assert (list(await door.seqs()), await door.queued()) == ([message_id], 0)


async def test_a_full_mailbox_is_noted(parts: Parts) -> None:
    parts = Parts(parts.redis, parts.database, mailbox_max_entries=2)
    door = Door(parts)
    for _ in range(3):
        await door.send(USER)
    assert parts.mailbox.overflow.take(10) == [USER]


# ── 死在中间 ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("done", range(7))
async def test_dlv_1_killed_anywhere_in_the_delivery(
    door: Door, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """Redis 只执行了前几条命令：扫描补齐，一条一个 seq。"""
    lean, whole = door.parts.redis.lean, door.parts.redis.lean.execute_many

    async def cut(commands: Sequence[Command], *, tolerant: bool = False) -> NoReturn:
        monkeypatch.setattr(lean, "execute_many", whole)
        await whole(commands[:done], tolerant=tolerant)
        raise RedisUnavailableError("cut")

    monkeypatch.setattr(lean, "execute_many", cut)
    message_id = await door.send(USER, OTHER)
    door.parts.now += 1
    assert await door.relay.sweep(0) == 1
    await consume(door.parts.queue, door.parts)
    assert await door.seqs(USER) == await door.seqs(OTHER) == {message_id: 1}
    assert await door.relay.sweep(0) == 0
    await door.parts.ack(message_id)
    assert await door.parts.status(message_id) == ("delivered", None)


async def test_dlv_1_killed_between_the_delivery_and_the_mark(door: Door) -> None:
    """扫描把它入队，再投递一次：同一个 seq，已确认的不再来。"""
    kept, acked = await door.send(USER), await door.send(OTHER)
    before = await door.seqs()
    await door.parts.mailbox.remove([(OTHER, [acked])])
    door.parts.now += 1
    assert await relay_of(door.parts, 100).sweep(0) == 2
    await consume(door.parts.queue, door.parts)
    assert await door.seqs() == before == {kept: 1}
    assert await door.seqs(OTHER) == {}


async def consume(queue: MessageQueue, parts: Parts) -> None:
    """一个消费者把此刻队列里的做完。"""
    consumer = message_consumer(
        *("c", queue, parts.mailbox),
        batch_entries=10,
        block_ms=50,
        claim_every_ms=60_000,
        clock=parts.clock,
    )
    reader = await queue.open_reader("c")
    while taken := await reader.take(10, 0):
        await consumer._handle(taken)
    await reader.close()


# ── 慢的那条知道有人在等 ─────────────────────────────────────────────────────


async def test_a4_the_slow_lane_of_this_process_knows(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meeting_push.queue.room.CALM_S", 0.0)
    reader = await door.parts.queue.open_reader("one")
    assert reader.calm
    monkeypatch.setattr("meeting_push.queue.room.CALM_S", 60.0)
    await door.send(USER)
    assert not reader.calm
    await reader.close()


async def test_a4_the_slow_lane_of_other_processes_learns_it(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meeting_push.queue.room.CALM_S", -0.5)
    worker = message_queue(door.parts.redis, max_length=10)
    reader = await worker.open_reader("far")
    await worker.look_for_live()
    assert reader.calm
    await door.send(USER)
    await worker.look_for_live()
    assert not reader.calm
    await reader.close()
