"""瞬时发布：信封完整、知道有没有人在听、断线重试；外来的进程用 redis-cli 也能发。"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from meeting_push.deliver.message_publisher import MessagePublisher
from meeting_push.errors import InvalidInputError, RedisUnavailableError
from meeting_push.protocol.envelope import frame_key
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.redis_service import RedisService
from tests.support.eventually import eventually
from tests.support.people import Device, Person, device, register
from tests.support.redis_server import RedisServer, find_embedded_redis
from tests.support.server_process import ServerProcess

FOREIGN = {"type": "new_message", "message_id": "n-1", "title": "hi", "content": "there"}


# ── 外来的进程 ───────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def server(
    redis7_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("publisher")
    with ServerProcess(directory, redis_url=redis7_server.url) as process:
        yield process


@pytest.fixture
async def bob(server: ServerProcess) -> Person:
    return await register(server.base_url, "bob")


@pytest.fixture
async def phone(server: ServerProcess, bob: Person) -> AsyncIterator[Device]:
    async with device(server.ws_url(bob.user_id), bob) as one:
        yield one


def redis_cli() -> str:
    found = shutil.which("redis-cli")
    embedded = find_embedded_redis()
    if found is None and embedded is not None:
        beside = embedded.with_name("redis-cli")
        found = str(beside) if beside.exists() else None
    if found is None:
        pytest.skip("no redis-cli")
    return found


def publish(redis: RedisServer, channel: str, text: str) -> int:
    """返回有几个节点在听。"""
    command = [redis_cli(), "-p", str(redis.port), "PUBLISH", channel, text]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def malformed(server: ServerProcess) -> float:
    metrics = httpx.get(f"{server.base_url}/metrics", trust_env=False).text
    mark = 'meeting_push_drops_total{reason="malformed_envelope"}'
    return sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(mark))


async def test_redis_cli_reaches_a_user(
    redis7_server: RedisServer, bob: Person, phone: Device
) -> None:
    channel = f"user:{{{bob.user_id}}}:messages"
    assert publish(redis7_server, channel, json.dumps(FOREIGN)) == 1
    assert (await phone.next_message())["content"] == "there"


async def test_redis_cli_reaches_everybody(redis7_server: RedisServer, phone: Device) -> None:
    assert publish(redis7_server, "broadcast:all", json.dumps(FOREIGN)) == 1
    assert (await phone.next_message())["title"] == "hi"


async def test_redis_cli_hears_that_nobody_listens(
    redis7_server: RedisServer, server: ServerProcess
) -> None:
    assert publish(redis7_server, "user:{987654}:messages", json.dumps(FOREIGN)) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        '"new_message"',
        '{"type":"new_message"}',
        '{"type":"unheard_of"}',
        '{"type":"new_message","message_id":"n","title":5,"content":""}',
        '{"type":"new_message","seq":7,"attempt":0,"message_id":"' + "0" * 26 + '"',
        "[" * 10_000,
    ],
    ids=lambda text: text[:24] or "empty",
)
@pytest.mark.parametrize("name", ["user", "broadcast:all", "system:notifications"])
async def test_what_is_malformed_is_counted_and_dropped(
    redis7_server: RedisServer,
    server: ServerProcess,
    bob: Person,
    phone: Device,
    name: str,
    text: str,
) -> None:
    channel = f"user:{{{bob.user_id}}}:messages" if name == "user" else name
    before = malformed(server)
    publish(redis7_server, channel, text)
    await eventually(lambda: malformed(server) == before + 1)
    assert not phone.has_message()
    await phone.round_trip()


# ── 我们自己的发布者 ──────────────────────────────────────────────────────────


@pytest.fixture
async def redis(private_redis_server: RedisServer, key_prefix: str) -> AsyncIterator[RedisService]:
    service = RedisService(RedisAddress.parse(private_redis_server.url), Keys(key_prefix))
    await service.start()
    yield service
    await service.close()


@pytest.fixture
def publisher(redis: RedisService) -> MessagePublisher:
    return MessagePublisher(redis, max_bytes=1_000)


async def test_nobody_listening_is_told(publisher: MessagePublisher) -> None:
    assert await publisher.publish_to_user(1, {"title": "t", "content": "c"}) == 0
    assert await publisher.publish_broadcast({"title": "t", "content": "c"}) == 0


async def test_the_envelope_is_complete(redis: RedisService, publisher: MessagePublisher) -> None:
    listener = redis.client.pubsub()
    await listener.subscribe(redis.keys.user_channel(1))
    await listener.get_message(timeout=1)
    assert await publisher.publish_to_user(1, {"title": "t", "content": "c", "priority": 7}) == 1
    published: dict[str, Any] | None = await listener.get_message(timeout=1)
    assert published is not None
    await listener.aclose()  # type: ignore[no-untyped-call]
    envelope = json.loads(published["data"])
    assert {"type", "message_id", "timestamp", "sender", "priority"} <= envelope.keys()
    assert frame_key(published["data"]) is None  # 合格，且不占 seq


async def test_a_batch_with_one_bad_message_publishes_nothing(
    redis: RedisService, publisher: MessagePublisher
) -> None:
    channel = redis.keys.broadcast_channel
    with pytest.raises(InvalidInputError):
        await publisher.publish_batch([(channel, {"title": "t"}), (channel, {"title": 5})])


async def test_an_oversized_message_is_refused(publisher: MessagePublisher) -> None:
    with pytest.raises(InvalidInputError):
        await publisher.publish_to_user(1, {"content": "x" * 1_000})


async def test_a_publication_survives_a_short_outage(
    redis: RedisService, publisher: MessagePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """第一次在断线上失败，退避之后在新的连接上成功。"""
    monkeypatch.setattr("meeting_push.deliver.message_publisher.MAX_ATTEMPTS", 20)
    own_id = await redis.lean.execute("CLIENT", "ID")
    await redis.client.client_kill_filter(_id=own_id)
    assert await publisher.publish_to_user(1, {"title": "t", "content": "c"}) == 0
    assert redis.lean.reconnects == 1


async def test_a_long_outage_is_told(
    private_redis_server: RedisServer, publisher: MessagePublisher
) -> None:
    private_redis_server.kill()
    with pytest.raises(RedisUnavailableError):
        await publisher.publish_to_user(1, {"title": "t", "content": "c"})
