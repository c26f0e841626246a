"""坏输入，从 Redis 那一侧：别人写进流、延迟集合与频道的，或拿走了的；服务器照常送达。"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from ulid import ULID

from meeting_push.clock import now_ms
from meeting_push.redis.keys import Keys, QueueKeys
from tests.support.eventually import eventually
from tests.support.house import own_redis
from tests.support.meetings import hold, live
from tests.support.people import Device, Person, delivery, device, register, send
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(240)

GROUP = "delivery_workers"
FAR = 4_000_000_000_000
GARBAGE = ("", "{", "null", "[]", '{"type":"unheard_of"}', "[" * 10_000, "9" * 5_000, "\ufeff")


@dataclass(frozen=True)
class Foreign:
    """外来的客户端，与它知道的名字。"""

    redis: Any
    server: RedisServer
    keys: Keys
    queue: QueueKeys

    @property
    def queues(self) -> tuple[str, str]:
        return self.queue.delivery, self.queue.priority

    def channels(self) -> list[str]:
        """有人在听的；Cluster 上每个主都问。"""
        found: set[str] = set()
        for one in self.server.together:
            with one.direct() as client:
                found.update(client.pubsub_channels())
                found.update(client.pubsub_shardchannels())
        return sorted(found)

    def publish(self, channel: str, text: str) -> None:
        if self.keys.tagged and self.keys.is_sharded(channel):
            self.redis.execute_command("SPUBLISH", channel, text)
        else:
            self.redis.publish(channel, text)

    def allow_memory(self, count: int) -> None:
        """各台的 ``maxmemory``，字节；0 是不限。"""
        for one in self.server.together:
            with one.direct() as client:
                client.config_set("maxmemory", count)


@pytest.fixture(scope="module", params=["own", "own-valkey", "own-sentinel", "own-cluster"])
def redis_here(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    with own_redis(request.param, tmp_path_factory.mktemp("foreign")) as server:
        yield server


@pytest.fixture(scope="module")
def victim(redis_here: RedisServer) -> Iterator[ServerProcess]:
    settings = {"claim_idle_ms": 500, "consumer_block_ms": 200}
    with ServerProcess(
        redis_here.directory, redis_url=redis_here.url, settings=settings
    ) as process:
        yield process


@pytest.fixture
def client(redis_here: RedisServer) -> Iterator[Foreign]:
    keys = redis_here.keys()
    [queue] = QueueKeys.of(keys, 1)
    with redis_here.foreign() as redis:
        yield Foreign(redis, redis_here, keys, queue)


@pytest.fixture
async def ann(victim: ServerProcess) -> Person:
    return await register(victim.base_url, f"ann-{uuid4().hex[:8]}")


@pytest.fixture
async def phone(victim: ServerProcess, ann: Person) -> AsyncIterator[Device]:
    async with device(victim.ws_url(ann.user_id), ann) as one:
        yield one


async def works(victim: ServerProcess, ann: Person, phone: Device) -> None:
    """发给自己的一条，两条队列各一次，都到了，也都记下了。"""
    for priority in (0, 9):
        message_id = await send(victim.base_url, ann, [ann], priority=priority)
        assert (await phone.next_message())["message_id"] == message_id
        await phone.ack(message_id)

        async def recorded(message_id: str = message_id) -> bool:
            return bool((await delivery(victim.base_url, ann, message_id))["delivered"])

        await eventually(recorded)


def letters(client: Foreign) -> list[tuple[str, str]]:
    """死信的 (原因, 原文)。"""
    found = client.redis.xrange(client.queue.dead_letter)
    return [(fields["reason"], fields["entry"]) for _, fields in found]


async def buried(client: Foreign, before: int, texts: Sequence[str]) -> None:
    """``before`` 封之后的死信恰是这些，都说读不懂。"""
    await eventually(lambda: len(letters(client)) == before + len(texts))
    reasons, raw = zip(*letters(client)[before:], strict=True)
    assert all(reason.startswith("malformed entry") for reason in reasons)
    assert sorted(raw) == sorted(texts)


async def test_garbage_in_a_stream_ends_in_the_dead_letters(
    victim: ServerProcess, ann: Person, phone: Device, client: Foreign
) -> None:
    before = len(letters(client))
    for queue in client.queues:
        for text in GARBAGE:
            client.redis.xadd(queue, {"v": "1", "entry": text})
    await buried(client, before, GARBAGE * len(client.queues))
    await works(victim, ann, phone)


async def test_an_entry_of_an_unknown_version_ends_in_the_dead_letters(
    victim: ServerProcess, ann: Person, phone: Device, client: Foreign
) -> None:
    client.redis.xadd(client.queues[0], {"v": "2", "entry": '{"from":"the future"}'})
    future = ("unknown entry version", '{"from":"the future"}')
    await eventually(lambda: future in letters(client))
    await works(victim, ann, phone)


async def test_garbage_in_the_delayed_queue_ends_in_the_dead_letters(
    victim: ServerProcess, ann: Person, phone: Device, client: Foreign
) -> None:
    before = len(letters(client))
    # 成员的第一个字符是优先级，其余是条目
    members = dict.fromkeys((f"0{text}" for text in GARBAGE), now_ms())
    client.redis.zadd(client.queue.delayed, members)
    await buried(client, before, GARBAGE)
    assert client.redis.zcard(client.queue.delayed) == 0
    await works(victim, ann, phone)


async def test_garbage_on_every_channel_is_dropped(
    victim: ServerProcess, ann: Person, phone: Device, client: Foreign
) -> None:
    bob = await register(victim.base_url, f"bob-{uuid4().hex[:8]}")
    meeting_id = await hold(victim, ann, bob)
    await phone.socket.send(json.dumps({"type": "watch", "user_ids": [bob.user_id]}))
    await eventually(lambda: [f for f in phone.others if f["type"] == "presence"])
    async with live(victim, ann, meeting_id) as seat:
        channels = client.channels()
        for channel in channels:
            for text in GARBAGE:
                client.publish(channel, text)
        await seat.say("still here")
        assert (await seat.segments(1))[0]["text"] == "still here"
    kinds = {channel.partition(":")[0] for channel in channels}
    assert {"user", "broadcast", "system", "meeting", "presence", "canary"} <= kinds
    assert not phone.has_message()
    await works(victim, ann, phone)
    assert victim.is_ready()


async def test_a_body_gone_before_delivery_is_made_again_from_the_record(
    victim: ServerProcess, ann: Person, phone: Device, client: Foreign
) -> None:
    due = now_ms() + 1_500
    message_id = await send(victim.base_url, ann, [ann], deliver_at=due, content="kept")
    body = client.keys.message_body(message_id)
    await eventually(lambda: client.redis.exists(body))
    client.redis.delete(body)
    frame = await phone.next_message()
    assert (frame["message_id"], frame["content"]) == (message_id, "kept")


def unpacked(found: Sequence[tuple[str, str]]) -> list[tuple[str, object]]:
    """读得懂的那些死信。"""
    return [(reason, json.loads(raw)) for reason, raw in found if reason == "body_gone"]


async def test_an_entry_whose_body_nobody_knows_ends_in_the_dead_letters(
    victim: ServerProcess, ann: Person, phone: Device, client: Foreign
) -> None:
    entry = {
        "message_id": str(ULID()),
        "recipient_ids": [ann.user_id],
        "priority": 0,
        "expires_at": FAR,
        "attempt": 0,
    }
    client.redis.xadd(client.queues[0], {"v": "1", "entry": json.dumps(entry)})
    await eventually(lambda: ("body_gone", entry) in unpacked(letters(client)))
    assert not phone.has_message()
    await works(victim, ann, phone)


async def test_a_consumer_group_destroyed_while_running_is_made_again(
    victim: ServerProcess, ann: Person, phone: Device, client: Foreign
) -> None:
    for queue in client.queues:
        assert client.redis.xgroup_destroy(queue, GROUP)
    await works(victim, ann, phone)


async def test_con_4_a_redis_at_its_maxmemory_delays_and_loses_nothing(
    victim: ServerProcess, ann: Person, phone: Device, client: Foreign
) -> None:
    client.allow_memory(1)
    try:
        message_ids = [await send(victim.base_url, ann, [ann]) for _ in range(3)]  # 仍是 202
        assert not phone.has_message()
    finally:
        client.allow_memory(0)
    got = [(await phone.next_message(20))["message_id"] for _ in message_ids]
    assert sorted(got) == sorted(message_ids)
    await works(victim, ann, phone)


def test_what_was_thrown_at_it_did_not_kill_a_loop(victim: ServerProcess) -> None:
    """排在最后：前面的全部之后，没有一个循环死过。"""
    died = [line for line in victim.output.splitlines() if "loop_died" in line]
    assert died == []
