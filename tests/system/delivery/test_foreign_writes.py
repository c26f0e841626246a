"""坏输入，从 Redis 那一侧：别人写进流、延迟集合与频道的，或拿走了的；服务器照常送达。"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from ulid import ULID

from meeting_push.clock import now_ms
from tests.support.eventually import eventually
from tests.support.meetings import hold, live
from tests.support.people import Device, Person, delivery, device, register, send
from tests.support.redis_server import RedisServer, find_embedded_redis, find_redis7
from tests.support.server_process import ServerProcess

QUEUES = ("message_delivery_queue", "priority_message_queue")
GROUP = "delivery_workers"
FAR = 4_000_000_000_000
GARBAGE = ("", "{", "null", "[]", '{"type":"unheard_of"}', "[" * 10_000, "9" * 5_000, "\ufeff")


@pytest.fixture(scope="module", params=[find_redis7, find_embedded_redis], ids=["7", "valkey"])
def redis_here(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    find: Callable[[], Path | None] = request.param
    binary = find()
    if binary is None:
        pytest.skip("no such redis-server here")
    server = RedisServer(binary, tmp_path_factory.mktemp("foreign")).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def victim(redis_here: RedisServer) -> Iterator[ServerProcess]:
    settings = {"claim_idle_ms": 500, "consumer_block_ms": 200}
    with ServerProcess(
        redis_here.directory, redis_url=redis_here.url, settings=settings
    ) as process:
        yield process


@pytest.fixture
def client(redis_here: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(redis_here.url) as client:
        yield client


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


def letters(client: Redis) -> list[tuple[bytes, bytes]]:
    """死信的 (原因, 原文)。"""
    found: Any = client.xrange("dead_letter_queue")
    return [(fields[b"reason"], fields[b"entry"]) for _, fields in found]


async def buried(client: Redis, before: int, texts: Sequence[str]) -> None:
    """``before`` 封之后的死信恰是这些，都说读不懂。"""
    await eventually(lambda: len(letters(client)) == before + len(texts))
    reasons, raw = zip(*letters(client)[before:], strict=True)
    assert all(reason.startswith(b"malformed entry") for reason in reasons)
    assert sorted(raw) == sorted(text.encode() for text in texts)


async def test_garbage_in_a_stream_ends_in_the_dead_letters(
    victim: ServerProcess, ann: Person, phone: Device, client: Redis
) -> None:
    before = len(letters(client))
    for queue in QUEUES:
        for text in GARBAGE:
            client.xadd(queue, {"v": "1", "entry": text})
    await buried(client, before, GARBAGE * len(QUEUES))
    await works(victim, ann, phone)


async def test_an_entry_of_an_unknown_version_ends_in_the_dead_letters(
    victim: ServerProcess, ann: Person, phone: Device, client: Redis
) -> None:
    client.xadd(QUEUES[0], {"v": "2", "entry": '{"from":"the future"}'})
    future = (b"unknown entry version", b'{"from":"the future"}')
    await eventually(lambda: future in letters(client))
    await works(victim, ann, phone)


async def test_garbage_in_the_delayed_queue_ends_in_the_dead_letters(
    victim: ServerProcess, ann: Person, phone: Device, client: Redis
) -> None:
    before = len(letters(client))
    # 成员的第一个字符是优先级，其余是条目
    client.zadd("delayed_message_queue", dict.fromkeys((f"0{text}" for text in GARBAGE), now_ms()))
    await buried(client, before, GARBAGE)
    assert client.zcard("delayed_message_queue") == 0
    await works(victim, ann, phone)


async def test_garbage_on_every_channel_is_dropped(
    victim: ServerProcess, ann: Person, phone: Device, client: Redis
) -> None:
    bob = await register(victim.base_url, f"bob-{uuid4().hex[:8]}")
    meeting_id = await hold(victim, ann, bob)
    await phone.socket.send(json.dumps({"type": "watch", "user_ids": [bob.user_id]}))
    await eventually(lambda: [f for f in phone.others if f["type"] == "presence"])
    async with live(victim, ann, meeting_id) as seat:
        listening: Any = client.pubsub_channels()
        channels = [channel.decode() for channel in listening]
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
    victim: ServerProcess, ann: Person, phone: Device, client: Redis
) -> None:
    due = now_ms() + 1_500
    message_id = await send(victim.base_url, ann, [ann], deliver_at=due, content="kept")
    await eventually(lambda: client.exists(f"message_body:{message_id}"))
    client.delete(f"message_body:{message_id}")
    frame = await phone.next_message()
    assert (frame["message_id"], frame["content"]) == (message_id, "kept")


def unpacked(found: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, object]]:
    """读得懂的那些死信。"""
    return [(reason, json.loads(raw)) for reason, raw in found if reason == b"body_gone"]


async def test_an_entry_whose_body_nobody_knows_ends_in_the_dead_letters(
    victim: ServerProcess, ann: Person, phone: Device, client: Redis
) -> None:
    entry = {
        "message_id": str(ULID()),
        "recipient_ids": [ann.user_id],
        "priority": 0,
        "expires_at": FAR,
        "attempt": 0,
    }
    client.xadd(QUEUES[0], {"v": "1", "entry": json.dumps(entry)})
    await eventually(lambda: (b"body_gone", entry) in unpacked(letters(client)))
    assert not phone.has_message()
    await works(victim, ann, phone)


async def test_a_consumer_group_destroyed_while_running_is_made_again(
    victim: ServerProcess, ann: Person, phone: Device, client: Redis
) -> None:
    for queue in QUEUES:
        assert client.xgroup_destroy(queue, GROUP)
    await works(victim, ann, phone)


async def test_con_4_a_redis_at_its_maxmemory_delays_and_loses_nothing(
    victim: ServerProcess, ann: Person, phone: Device, client: Redis
) -> None:
    client.config_set("maxmemory", 1)
    try:
        message_ids = [await send(victim.base_url, ann, [ann]) for _ in range(3)]  # 仍是 202
        assert not phone.has_message()
    finally:
        client.config_set("maxmemory", 0)
    got = [(await phone.next_message(20))["message_id"] for _ in message_ids]
    assert sorted(got) == sorted(message_ids)
    await works(victim, ann, phone)


def test_what_was_thrown_at_it_did_not_kill_a_loop(victim: ServerProcess) -> None:
    """排在最后：前面的全部之后，没有一个循环死过。"""
    died = [line for line in victim.output.splitlines() if "loop_died" in line]
    assert died == []
