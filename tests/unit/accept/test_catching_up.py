"""决定 0014：收得比投得快的发送者等一等投递；别人、急的、挂着的 Redis 不等。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from meeting_push.accept import outbox_relay
from meeting_push.accept.outbox_relay import OutboxRelay
from meeting_push.errors import MeetingPushError, RedisUnavailableError
from meeting_push.model import Draft, Outgoing, Sender
from meeting_push.redis.bodies import Body
from tests.support.eventually import eventually
from tests.support.node import node
from tests.support.parts import USER, Parts
from tests.support.redis_server import RedisServer
from tests.unit.accept.test_direct_delivery import ALICE, CAROL, Door

#: 一批取走之后还多于界的条数。
AHEAD = 4


@pytest.fixture
def door(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> Door:
    monkeypatch.setattr(outbox_relay, "FAST_MESSAGES", 2)
    monkeypatch.setattr(outbox_relay, "AHEAD_MESSAGES", AHEAD - 1)
    patient(monkeypatch)
    return Door(parts)


def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """机器停一下也不算 Redis 挂着，也不算等够了。"""
    for name in ("CATCH_UP_S", "SLOW_S"):
        monkeypatch.setattr(outbox_relay, name, 60)


async def catch_up(door: Door, sender: Sender) -> bool:
    draft = Draft(recipient_ids=(USER,), title="t", content="", sender=sender)
    return await door.relay.catch_up(int(sender.id or 0), [draft])


class Gate:
    """投递停在门口；``pass_one`` 放一批，``broken`` 是放行时改为抛出的。"""

    def __init__(self, relay: OutboxRelay, monkeypatch: pytest.MonkeyPatch) -> None:
        assert relay.direct is not None
        self._through = asyncio.Semaphore(0)
        self.broken: MeetingPushError | None = None
        self.reached = asyncio.Event()
        self._deliver = relay.direct.deliver
        monkeypatch.setattr(relay.direct, "deliver", self._wait)

    async def _wait(
        self, batch: Sequence[Outgoing], bodies: Mapping[str, Body], now: int
    ) -> list[Outgoing]:
        self.reached.set()
        await self._through.acquire()
        if self.broken:
            raise self.broken
        return await self._deliver(batch, bodies, now)

    def pass_one(self) -> None:
        self._through.release()

    def open(self) -> None:
        for _ in range(100):
            self._through.release()


@contextlib.asynccontextmanager
async def backlog(
    door: Door, monkeypatch: pytest.MonkeyPatch, waiting: int, priority: int = 0
) -> AsyncIterator[Gate]:
    """一批在投递，ALICE 的还有 ``waiting`` 条在等。"""
    gate = Gate(door.relay, monkeypatch)
    count = waiting + outbox_relay.FAST_MESSAGES
    posts = [(await door.parts.accept(USER, priority=priority), [USER]) for _ in range(count)]
    draining = asyncio.create_task(door.submit(*posts))
    await gate.reached.wait()
    yield gate
    gate.open()
    await draining


async def test_who_sends_faster_than_we_deliver_waits_for_the_delivery(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backlog(door, monkeypatch, AHEAD) as gate:
        waiting = asyncio.create_task(catch_up(door, ALICE))
        await asyncio.sleep(0)
        assert not waiting.done()
        gate.pass_one()
        assert await waiting


async def test_whose_messages_are_few_does_not_wait(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backlog(door, monkeypatch, AHEAD - 1):
        assert not await catch_up(door, ALICE)


async def test_a5_another_sender_does_not_wait(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async with backlog(door, monkeypatch, AHEAD):
        assert not await catch_up(door, CAROL)


async def test_urgent_messages_hold_nobody(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async with backlog(door, monkeypatch, AHEAD, priority=9):
        assert not await catch_up(door, ALICE)


async def test_con_4_nobody_waits_longer_than_the_limit(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_relay, "CATCH_UP_S", 0.01)
    async with backlog(door, monkeypatch, AHEAD):
        assert await catch_up(door, ALICE)


async def test_con_4_nobody_waits_for_a_redis_that_hangs(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backlog(door, monkeypatch, AHEAD):
        monkeypatch.setattr(outbox_relay, "SLOW_S", 0)
        assert not await catch_up(door, ALICE)


async def test_nobody_waits_where_nothing_is_delivered(door: Door) -> None:
    """快路没有在跑（还没有 ``start``，正在停）：没有什么可等。"""
    posts = [(await door.parts.accept(USER), [USER]) for _ in range(AHEAD + 2)]
    door.relay.submit(Outgoing(message, tuple(to)) for message, to in posts)
    assert not await catch_up(door, ALICE)


async def test_a_failed_batch_lets_them_go(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """这个进程里的一列清空了，由扫描送。"""
    async with backlog(door, monkeypatch, AHEAD) as gate:
        waiting = asyncio.create_task(catch_up(door, ALICE))
        await asyncio.sleep(0)
        gate.broken = RedisUnavailableError("gone")
        gate.pass_one()
        assert await waiting


@pytest.mark.timeout(60)
async def test_a_send_waits_and_an_urgent_one_passes(
    redis_server: RedisServer,
    database_url: str,
    tmp_path: Path,
    key_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patient(monkeypatch)
    for name in ("FAST_MESSAGES", "AHEAD_MESSAGES"):
        monkeypatch.setattr(outbox_relay, name, 1)
    async with node(redis_server.url, database_url, tmp_path, key_prefix=key_prefix) as push:
        gate, sends = Gate(push._rooms.messages.relay, monkeypatch), push.messages
        await sends.send_message(ALICE, USER, "t", "in hand")
        await gate.reached.wait()
        for _ in range(2):
            await sends.send_message(ALICE, USER, "t", "waits for its delivery")
        held = asyncio.create_task(sends.send_message(ALICE, USER, "t", "held"))
        await sends.send_message(ALICE, USER, "t", "urgent", priority=9)
        await sends.send_message(CAROL, USER, "t", "of another")
        assert (held.done(), sends.tally.paced) == (False, 0)
        gate.open()
        await held
        assert sends.tally.paced == 1

        async def all_there() -> bool:
            return len(await push.mailbox.message_ids(USER)) == 6

        await eventually(all_there)
