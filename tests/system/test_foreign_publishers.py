"""外来的进程用 redis-cli 也能发；坏的计数后丢弃（A3），线照样好。"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.support.eventually import eventually
from tests.support.people import Device, Person, device, register
from tests.support.redis_server import RedisServer, find_embedded_redis, redis_of
from tests.support.server_process import ServerProcess
from tests.unit.protocol.test_foreign_envelopes import BAD, HEAD

FOREIGN = {"type": "new_message", "message_id": "n-1", "title": "hi", "content": "there"}


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


async def test_a3_a_device_gets_none_of_it_and_each_is_counted(
    redis7_server: RedisServer, server: ServerProcess
) -> None:
    """A3: on the user's channel and on everybody's; the line stays good."""
    bob = await register(server.base_url, "bob")
    before = malformed(server)
    async with (
        redis_of(redis7_server) as redis,
        device(server.ws_url(bob.user_id), bob) as phone,
    ):
        for channel in (f"user:{{{bob.user_id}}}:messages", "broadcast:all"):
            for payload in BAD:
                await redis.client.publish(channel, payload)
        await redis.client.publish(f"user:{{{bob.user_id}}}:messages", HEAD + "}")
        assert (await phone.next_message())["message_id"] == "n-1"
        assert not phone.has_message()
    await eventually(lambda: malformed(server) == before + 2 * len(BAD))
