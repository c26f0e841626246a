"""队列的状态机，对着真的 Redis：无论什么次序，收下的每一项恰在一处。"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from meeting_push.model import QueueEntry
from meeting_push.queue.queue_reader import QueueReader, Taken
from tests.support.queueing import message_queue
from tests.support.redis_server import RedisServer

NAMES = st.sampled_from([f"{n}".rjust(26, "0") for n in range(8)])
WORKERS = st.sampled_from(["a", "b"])
MAX_LENGTH = 6
MAX_DELIVERIES = 3


def entry(name: str) -> QueueEntry:
    """偶数是紧急的。"""
    urgent = int(name) % 2 == 0
    return QueueEntry(
        message_id=name, recipient_ids=(1,), priority=9 if urgent else 0, expires_at=1
    )


class QueueMachine(RuleBasedStateMachine):
    """模型：名字 → 它在哪一处（``queue``、``hand``、``later``、``dead``）；了结了的不在。"""

    server: ClassVar[RedisServer]
    partitions: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 1_000_000
        self.place: dict[str, str] = {}
        self.dead: Counter[str] = Counter()
        self.deliveries: Counter[str] = Counter()
        self.due: dict[str, int] = {}
        self.hands: dict[str, dict[str, Taken]] = {"a": {}, "b": {}}
        self.readers: dict[str, QueueReader] = {}
        self.run(self.open())

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    async def open(self) -> None:
        self.redis = self.server.service(f"test-{uuid4().hex[:12]}:")
        await self.redis.start()
        self.queue = message_queue(
            self.redis,
            max_length=MAX_LENGTH,
            claim_idle_ms=0,
            max_deliveries=MAX_DELIVERIES,
            partitions=self.partitions,
            clock=lambda: self.now,
        )
        for name in self.hands:
            self.readers[name] = await self.queue.open_reader(name)

    def teardown(self) -> None:
        async def close() -> None:
            for reader in self.readers.values():
                await reader.close()
            await self.redis.close()

        self.run(close())
        self.loop.close()

    def full(self, adding: set[str]) -> bool:
        streams = [self.queue._queue_for(entry(name)) for name in adding]
        held = [
            self.queue._queue_for(entry(name))
            for name, place in self.place.items()
            if place in ("queue", "hand")
        ]
        return any(held.count(s) + streams.count(s) > MAX_LENGTH for s in streams)

    # ── 动作 ────────────────────────────────────────────────────────────────

    @rule(names=st.lists(NAMES, min_size=1, max_size=4))
    def enqueue(self, names: list[str]) -> None:
        names = [name for name in names if self.place.get(name) != "later"]
        new = {name for name in names if self.place.get(name) not in ("queue", "hand")}
        if self.full(new):
            return
        self.run(self.queue.batch_enqueue([entry(name) for name in names]))
        for name in new:
            self.place[name] = "queue"
            self.deliveries[name] = 0

    @rule(name=NAMES, delay=st.integers(0, 100))
    def schedule(self, name: str, delay: int) -> None:
        if self.place.get(name) in ("queue", "hand"):
            return
        self.run(self.queue.schedule([(entry(name), self.now + delay)]))
        self.place[name], self.due[name] = "later", self.now + delay

    @rule(jump=st.integers(-200, 200))
    def clock_jumps(self, jump: int) -> None:
        self.now += jump

    @rule()
    def move_due(self) -> None:
        due = [n for n, p in self.place.items() if p == "later" and self.due[n] <= self.now]
        if self.full(set(due)):
            return
        assert self.run(self.queue.move_due()) == len(due)
        for name in due:
            self.place[name] = "queue"
            self.deliveries[name] = 0

    @rule(worker=WORKERS, count=st.integers(1, 5))
    def take(self, worker: str, count: int) -> None:
        waiting = [name for name, place in self.place.items() if place == "queue"]
        taken: list[Taken] = self.run(self.readers[worker].take(count, 0))
        assert len(taken) <= count
        assert bool(taken) == bool(waiting)
        for item in [*taken, *self.readers[worker].surplus()]:
            name = item.entry.message_id
            assert name in waiting
            self.hold(worker, item)
            self.deliveries[name] = 1

    @rule(worker=WORKERS)
    def claim(self, worker: str) -> None:
        claimed: list[Taken] = self.run(self.readers[worker].claim(100))
        in_hand = {name for name, place in self.place.items() if place == "hand"}
        back = {item.entry.message_id: item for item in claimed}
        for name in in_hand:
            self.deliveries[name] += 1
            if self.deliveries[name] > MAX_DELIVERIES:
                assert name not in back
                self.bury(name)
            else:
                self.hold(worker, back[name])
        assert set(back) <= in_hand

    @rule(worker=WORKERS)
    def acknowledge(self, worker: str) -> None:
        hand = self.hands[worker]
        self.run(self.queue.acknowledge(hand.values()))
        for name in hand:
            del self.place[name]
        hand.clear()

    @rule(worker=WORKERS)
    def reject(self, worker: str) -> None:
        if self.hands[worker]:
            name, item = next(iter(self.hands[worker].items()))
            self.run(self.queue.reject(item, "no"))
            self.bury(name)

    @rule(worker=WORKERS, delay=st.integers(0, 100))
    def requeue(self, worker: str, delay: int) -> None:
        if self.hands[worker]:
            name, item = self.hands[worker].popitem()
            self.run(self.queue.reject(item, "later", requeue_after_ms=delay))
            self.place[name], self.due[name] = "later", self.now + delay

    @rule(worker=WORKERS)
    def crash(self, worker: str) -> None:
        """忘掉手里的；它们还在待确认表里。"""
        self.hands[worker].clear()
        self.run(self.queue.streams.retire(worker))

    # ── 模型 ────────────────────────────────────────────────────────────────

    def hold(self, worker: str, item: Taken) -> None:
        for hand in self.hands.values():
            hand.pop(item.entry.message_id, None)
        self.hands[worker][item.entry.message_id] = item
        self.place[item.entry.message_id] = "hand"

    def bury(self, name: str) -> None:
        for hand in self.hands.values():
            hand.pop(name, None)
        del self.place[name]
        self.dead[name] += 1

    @invariant()
    def every_entry_is_in_exactly_one_place(self) -> None:
        assert self.run(self.census()) == Counter(self.place.keys())

    async def census(self) -> Counter[str]:
        found: Counter[str] = Counter()
        dead: Counter[str] = Counter()
        for keys in self.queue.partitions:
            for stream in keys.streams:
                found.update(await self.ids_of(stream))
            for delayed in (keys.delayed, keys.delayed_bulk):
                found.update(await self.members_of(delayed))
            dead.update(await self.ids_of(keys.dead_letter))
        assert dead == self.dead
        return found

    async def ids_of(self, stream: str) -> list[str]:
        rows = await self.redis.lean.execute("XRANGE", stream, "-", "+")
        return [flat[flat.index(b"entry") + 1].decode()[15:41] for _, flat in rows]

    async def members_of(self, delayed: str) -> list[str]:
        members = await self.redis.lean.execute("ZRANGE", delayed, 0, -1)
        return [member.decode()[16:42] for member in members]


@pytest.mark.timeout(300)  # 两千多步，步步问真的 Redis
@pytest.mark.parametrize("partitions", [1, 2])
def test_dlv_1_every_accepted_entry_is_in_exactly_one_place(
    redis_server: RedisServer, partitions: int
) -> None:
    QueueMachine.server, QueueMachine.partitions = redis_server, partitions
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
