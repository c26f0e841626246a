"""抹掉一个人：死在哪一步都做得完；路上的又长出来的，后一遍收掉；别人的一样不少。"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import insert, select

from meeting_push.errors import NotFoundError
from meeting_push.model import Sender
from meeting_push.people.erasure import PASSES_MS, Eraser, Erasures
from meeting_push.redis.person_traces import PersonTraces, without
from meeting_push.redis.redis_service import RedisService
from meeting_push.settings import load_settings
from meeting_push.storage import tables
from meeting_push.storage.accounts import UserRepository
from meeting_push.storage.database import Database
from meeting_push.storage.erasures import ErasureRepository, PersonRows
from meeting_push.storage.operations_tables import events_out
from meeting_push.storage.people import PeopleRepository
from meeting_push.storage.tables import erasures
from meeting_push.supervision import Aside
from tests.support.parts import Parts
from tests.support.redis_server import RedisServer
from tests.support.revoking import revocations_of
from tests.support.traces import in_redis, in_sql

WORDS = "words-she-wrote"
BOB, CAROL = 7, 8
FIRST = 4_111_111_111_111_111
KEPT = ("mp_erased_people.user_id", "mp_revocations.user_id")


class Killed(BaseException):
    """进程死在这里。"""


class Cut:
    """包着一个部件，数到 0 的那次调用之前死掉。"""

    def __init__(self, part: object, fuse: list[int]) -> None:
        self._part = part
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        work = getattr(self._part, name)

        async def cut(*arguments: Any, **options: Any) -> Any:
            self._fuse[0] -= 1
            if self._fuse[0] < 0:
                raise Killed
            return await work(*arguments, **options)

        return cut


class World:
    def __init__(self, redis: RedisService, database: Database, raw: Redis) -> None:
        self.parts = Parts(redis, database)
        self.redis, self.database, self.raw = redis, database, raw
        self.record = ErasureRepository(database)
        self.rows = PersonRows(database)
        self.traces = PersonTraces(redis.lean, redis.keys, self.parts.queue.partitions)
        revocations = revocations_of(load_settings().auth, database, self.parts.clock)
        self.erasures = Erasures(self.record, revocations.banish, accounts=True)
        self.cancelled: list[str] = []

    def eraser(self, fuse: list[int] | None = None) -> Eraser:
        parts: tuple[Any, ...] = (self.record, self.rows, self.traces)
        if fuse is not None:
            parts = tuple(Cut(part, fuse) for part in parts)
        return Eraser(
            *parts,
            cancel=self.cancel,
            news=asyncio.Event(),
            aside=Aside("erasure"),
            clock=self.parts.clock,
        )

    async def cancel(self, message_id: str) -> None:
        self.cancelled.append(message_id)

    async def join(self, user_id: int) -> str:
        name = f"alice-{user_id}"
        row = {"id": user_id, "username": name, "username_key": name, "password_hash": "-"}
        async with self.database.transaction() as connection:
            await connection.execute(insert(tables.users), {**row, "role": "user", "created_at": 1})
        return name

    async def live(self, user_id: int) -> None:
        """一样来一点。"""
        name = await self.join(user_id)
        parts, keys = self.parts, self.redis.keys
        she, long = Sender(user_id, name), f"{WORDS} " * 200
        await parts.deliver(user_id, BOB)
        acked = await parts.deliver(user_id, BOB)
        async for _ in parts.outcomes.confirm([(acked, user_id, parts.now, parts.now)]):
            pass
        await parts.deliver(BOB, CAROL, sender=she, title=WORDS, content=long, receipt=True)
        await parts.accept(
            BOB, sender=she, title=WORDS, data={"x": WORDS}, deliver_at=parts.now + 99_999
        )
        member = {"message_id": acked, "recipient_ids": [user_id, BOB], "priority": 0}
        text = json.dumps({**member, "expires_at": 1, "attempt": 1}, separators=(",", ":"))
        alone = json.dumps({**member, "recipient_ids": [user_id], "expires_at": 2})
        self.raw.zadd(keys.delayed_queue, {f"0{text}": 5.0, f"0{alone}": 6.0})
        for entry in (text, alone):
            self.raw.xadd(keys.dead_letter_queue, {"v": "1", "entry": entry, "reason": "no_ack"})
        self.raw.set(keys.mailbox_senders(BOB), f'{{"1":[{user_id},0]}}')
        self.raw.hset(
            keys.online_user(user_id), "c", json.dumps({"connection_id": "c", "node": "n"})
        )
        self.raw.sadd(keys.node_connections("n"), f"{user_id}:c", f"{BOB}:c")
        self.raw.zadd(keys.online_users_set, {str(user_id): 1, str(BOB): 1})
        self.raw.zadd(keys.left_users, {str(user_id): 1})
        self.raw.hset(keys.broadcast_cursor(user_id), "at", "1")
        await self.meet(user_id, name)

    async def meet(self, user_id: int, name: str) -> None:
        own, other = "A" * 26, "B" * 26
        meeting: dict[str, object] = {"created_at": 1, "ended_at": None, "last_seq": 2}
        part: dict[str, object] = {"user_id": user_id, "name": name, "invited_at": 1}
        said: dict[str, object] = {"text": WORDS, "start_ms": 0, "end_ms": 1, "created_at": 1}
        async with self.database.transaction() as connection:
            for table, row in (
                (tables.meetings, {**meeting, "meeting_id": own, "organizer_id": user_id}),
                (tables.meetings, {**meeting, "meeting_id": other, "organizer_id": BOB}),
            ):
                title = WORDS if row["meeting_id"] == own else "bob's"
                await connection.execute(insert(table), {**row, "title": title})
            await connection.execute(
                insert(tables.meeting_participants), {**part, "meeting_id": other}
            )
            for seq, sender, speaker in ((1, user_id, name), (2, 99, name), (3, BOB, "bob")):
                text = WORDS if sender != BOB else "bob said"
                row = {**said, "meeting_id": other, "seq": seq, "sender_id": sender}
                await connection.execute(
                    insert(tables.transcript_segments), {**row, "speaker": speaker, "text": text}
                )
            await connection.execute(
                insert(tables.idempotency_keys),
                {
                    "sender_id": user_id,
                    "key": "k",
                    "request_hash": b"h",
                    "response": "{}",
                    "created_at": 1,
                },
            )
            await connection.execute(insert(tables.broadcasts), {"message_id": own, "logged_at": 1})
            await connection.execute(insert(events_out), self.event(user_id, name))
            receipt = {"message_id": own, "user_id": user_id, "delivered_at": 1}
            await connection.execute(insert(tables.broadcast_receipts), receipt)
            state = {"message_id": own, "user_id": user_id, "read_at": 1, "archived_at": None}
            await connection.execute(insert(tables.broadcast_states), state)
            inbox = {"user_id": user_id, "since": own, "version": 1}
            await connection.execute(insert(tables.inboxes), inbox)
        self.raw.zadd(self.redis.keys.meeting_online(other), {f"{user_id}:c:{name}": 9e15})

    def event(self, user_id: int, name: str) -> dict[str, object]:
        """停着的接收者还没有收下的一份。"""
        items = [["m", user_id, name, "message", 0], ["n", BOB, "bob", "message", 0]]
        row: dict[str, object] = {"receiver": "r", "batch_id": "b", "first_event": 0}
        row |= {"kind": "message.accepted", "items": json.dumps(items), "event_count": 2}
        return row | {"created_at": 1, "since": 1, "attempts": 0, "next_at": 0, "aside": False}

    async def left(self, user_id: int) -> list[str]:
        needles = (str(user_id), f"alice-{user_id}", WORDS)
        found = await in_sql(self.database, *needles)
        found += in_redis(self.raw, *needles, prefix=self.redis.keys.prefix)
        return [one for one in found if not one.startswith(KEPT)]


@pytest.fixture
def raw(redis_server: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def world(redis: RedisService, database: Database, raw: Redis) -> World:
    return World(redis, database, raw)


async def test_nothing_is_left_of_him(world: World) -> None:
    await world.live(FIRST)
    assert len(await world.left(FIRST)) > 20
    await world.erasures.erase(FIRST, by="test")
    world.parts.now += PASSES_MS[1]
    eraser = world.eraser()
    await eraser.step()
    await eraser.step()
    assert await world.left(FIRST) == []
    assert eraser.erased == 1
    assert len(world.cancelled) == 1


@pytest.mark.timeout(300)
async def test_wherever_the_process_dies_the_next_one_ends_it(world: World) -> None:
    await world.live(FIRST)
    await world.erasures.erase(FIRST, by="test")
    world.parts.now += PASSES_MS[0]
    for cut in count():  # 一次比一次走得远，直到走完
        with suppress(Killed):
            await world.eraser([cut]).step()
            break
        world.parts.now += 15_001  # 租约到期
    assert cut > 15
    assert await world.left(FIRST) == []


async def test_what_was_on_its_way_is_swept_by_a_later_pass(world: World) -> None:
    await world.live(FIRST)
    await world.erasures.erase(FIRST, by="test")
    world.parts.now += PASSES_MS[0]
    await world.eraser().step()
    await world.parts.deliver(FIRST, BOB)  # 别的进程手里的一批
    await world.parts.deliver(BOB, sender=Sender(FIRST, "x"), title=WORDS)
    assert await world.left(FIRST)
    world.parts.now += PASSES_MS[1]
    await world.eraser().step()
    assert await world.left(FIRST) == []


async def test_a_text_put_back_into_redis_meanwhile_is_swept_too(world: World) -> None:
    """从记录读出正文的进程停住了，抹掉之后才存进 Redis。"""
    name = await world.join(FIRST)
    message_id = await world.parts.deliver(BOB, sender=Sender(FIRST, name), title=WORDS)
    body = world.redis.keys.message_body(message_id)
    old = world.raw.get(body)
    assert isinstance(old, bytes)
    await world.erasures.erase(FIRST, by="test")
    world.parts.now += PASSES_MS[0]
    await world.eraser().step()
    world.raw.set(body, old)
    world.parts.now += PASSES_MS[1]
    await world.eraser().step()
    assert await world.left(FIRST) == []


async def test_the_others_lose_nothing(world: World) -> None:
    kept = await world.parts.deliver(BOB, CAROL, sender=Sender(CAROL, "carol"), title="kept")
    await world.live(FIRST)
    before = world.raw.zrange(world.redis.keys.mailbox(BOB), 0, -1)
    await world.erasures.erase(FIRST, by="test")
    world.parts.now += PASSES_MS[0]
    await world.eraser().step()
    assert world.raw.zrange(world.redis.keys.mailbox(BOB), 0, -1) == before
    [item] = [
        one
        for one in await world.parts.mailbox.get_offline_messages(BOB)
        if one.entry.message_id == kept
    ]
    assert (item.tail.title, item.tail.sender.name) == ("kept", "carol")
    assert await in_sql(world.database, "bob said")
    assert await in_sql(world.database, '[["m",0,"","message",0],["n",7,"bob","message",0]]')
    assert world.raw.smembers(world.redis.keys.node_connections("n")) == {b"%d:c" % BOB}
    delayed: Any = world.raw.zrange(world.redis.keys.delayed_queue, 0, -1, withscores=True)
    [(member, score)] = delayed
    assert (json.loads(member[1:])["recipient_ids"], score) == ([BOB], 5.0)


async def test_the_recipient_reads_a_tombstone(world: World) -> None:
    name = await world.join(FIRST)
    await world.parts.deliver(BOB, sender=Sender(FIRST, name), title=WORDS, data={"x": 1})
    await world.erasures.erase(FIRST, by="test")
    world.parts.now += PASSES_MS[0]
    await world.eraser().step()
    [item] = await world.parts.mailbox.get_offline_messages(BOB)
    assert (item.tail.title, item.tail.content) == ("", "")
    assert item.tail.sender == Sender(0, "")
    assert json.loads(bytes(item.tail.data)) == {"event": "message_erased"}


async def test_the_account_is_gone_at_once_and_its_id_for_good(world: World) -> None:
    await world.join(FIRST)
    await world.erasures.erase(FIRST, by="test")
    await world.erasures.erase(FIRST, by="test")
    assert await UserRepository(world.database).by_id(FIRST) is None
    again = await UserRepository(world.database).create(f"alice-{FIRST}", "-", "user", 1)
    assert again.id != FIRST
    with pytest.raises(NotFoundError):
        await world.erasures.erase(FIRST - 1, by="test")


async def test_an_application_erases_whom_it_likes(world: World) -> None:
    revocations = revocations_of(load_settings().auth, world.database, world.parts.clock)
    await Erasures(world.record, revocations.banish, accounts=False).erase(FIRST, by="test")
    world.parts.now += PASSES_MS[0]
    assert await world.record.take("me", world.parts.now, world.parts.now + 1) is not None


async def test_one_process_at_a_time_and_whoever_comes_after_it_died(world: World) -> None:
    await world.join(FIRST)
    await world.erasures.erase(FIRST, by="test")
    now = world.parts.now + PASSES_MS[0]
    assert await world.record.take("one", now - 1, now) is None
    assert await world.record.take("one", now, now + 10) is not None
    assert await world.record.take("two", now, now + 10) is None
    assert await world.record.take("one", now, now + 10) is not None
    assert await world.record.take("two", now + 10, now + 20) is not None
    assert not await world.record.keep(FIRST, "one", now + 99)


async def test_the_name_is_kept_no_longer_than_it_is_looked_for(world: World) -> None:
    await world.join(FIRST)
    await world.erasures.erase(FIRST, by="test")
    start, names = world.parts.now, []
    for at in PASSES_MS:
        world.parts.now = start + at
        await world.eraser().step()
        async with world.database.connect() as connection:
            [row] = await connection.execute(select(erasures))
        names.append(row.name)
    assert names == [f"alice-{FIRST}", None, None, None]
    assert (row.passes, row.next_at) == (4, None)


def test_an_entry_without_him() -> None:
    entry = b'{"message_id":"m","recipient_ids":[%s],"priority":0}'
    assert without(entry % b"1,23", 2) is None
    assert without(entry % b"2", 2) == b""
    assert json.loads(without(entry % b"1,2", 2) or b"")["recipient_ids"] == [1]
    assert without(b"2 no json", 2) is None


async def test_a_string_erased_is_nobody_new(world: World) -> None:
    """只留下散列；那段字再来，还是那个作废的号。"""
    known = PeopleRepository(world.database)
    number = (await known.add(["alice@example.com", "bob"], 1))["alice@example.com"]
    revocations = revocations_of(load_settings().auth, world.database, world.parts.clock)
    await Erasures(world.record, revocations.banish, accounts=False).erase(number, by="test")
    assert await in_sql(world.database, "alice@example.com") == []
    assert (await known.numbers(["alice@example.com", "carol"])) == {"alice@example.com": number}
