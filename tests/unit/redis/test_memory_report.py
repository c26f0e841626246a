"""什么占着 Redis 的内存：各种键、最大的信箱、没有期限的，一个人多少。"""

from __future__ import annotations

import asyncio
import json

import pytest
from typer.testing import CliRunner

from meeting_push.cli import app
from meeting_push.redis.keys import Keys
from meeting_push.redis.memory_report import MemoryReport, kind_of, memory_report
from meeting_push.redis.redis_service import RedisService
from tests.support.redis_server import RedisServer, redis_of

TTL_MS = 60_000


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("p:offline_messages:{5}", "offline_messages"),
        ("{p:broadcast_log}:ids", "broadcast_log"),
        ("p:message_delivery_queue:known", "message_delivery_queue"),
        ("p:broadcast_log", "broadcast_log"),
        ("p:5", "other"),
    ],
)
def test_a_key_is_of_a_kind(key: str, kind: str) -> None:
    assert kind_of(key, "p:") == kind


async def fill(redis: RedisService) -> None:
    """三个人、两条消息，一个没有期限的，与别人的一个键。"""
    keys, lean = redis.keys, redis.lean
    for user_id in (1, 2, 3):
        entries = [part for n in range(user_id * 10) for part in (n, f"m{n}")]
        await lean.execute("ZADD", keys.mailbox(user_id), *entries)
        await lean.execute("HSET", keys.user_seq(user_id), "seq", 1, "epoch", "1-x")
        for key in (keys.mailbox(user_id), keys.user_seq(user_id)):
            await lean.execute("PEXPIRE", key, TTL_MS)
    for message_id in ("a", "b"):
        await lean.execute("SET", keys.message_body(message_id), "x" * 1_000, "PX", TTL_MS)
    await lean.execute("SET", keys.message_log(9), "left behind")
    await lean.execute("XADD", keys.delivery_queue, "*", "v", 1)
    await lean.execute("SET", f"somebody-{keys.prefix}", "else", "PX", TTL_MS)


async def test_the_report(redis: RedisService) -> None:
    await fill(redis)
    keys = redis.keys
    report = await memory_report(redis.lean, keys, 10_000_000)
    assert report.whole
    assert {name: kind.keys for name, kind in report.kinds.items()} == {
        "offline_messages": 3,
        "user_seq": 3,
        "message_body": 2,
        "message_log": 1,
        "message_delivery_queue": 1,
    }
    assert report.largest_mailboxes == [(n * 10, keys.mailbox(n)) for n in (3, 2, 1)]
    assert report.eternal == [keys.message_log(9)]
    assert report.people == 3
    assert 1_000 < report.bytes_per_message < 2_000
    assert 0 < report.bytes_per_person < 10_000
    assert report.used_bytes > 0


async def test_the_walk_is_bounded(redis: RedisService, monkeypatch: pytest.MonkeyPatch) -> None:
    """键再多也只走这么多，只量这么多。"""
    monkeypatch.setattr("meeting_push.redis.memory_report.PAGE", 10)
    monkeypatch.setattr("meeting_push.redis.memory_report.MOST", 60)
    monkeypatch.setattr("meeting_push.redis.memory_report.ONE_IN", 2)
    for number in range(300):
        await redis.lean.execute("SET", redis.keys.message_body(str(number)), 1, "PX", TTL_MS)
    report = await memory_report(redis.lean, redis.keys, 10_000_000)
    assert report.kinds["message_body"].keys == 300
    assert report.kinds["message_body"].measured == 60
    some = await memory_report(redis.lean, redis.keys, 20)
    assert not some.whole
    assert some.walked < 300


async def test_an_empty_redis_has_nothing_to_divide(redis: RedisService) -> None:
    report = await memory_report(redis.lean, redis.keys, 1_000_000)
    assert (report.people, report.bytes_per_person, report.bytes_per_message) == (0, 0, 0)
    assert MemoryReport(0, 1, 0).whole


def test_the_command_says_it_in_text_and_in_json(
    redis_server: RedisServer, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with redis_of(redis_server, key_prefix) as redis:
            await fill(redis)

    asyncio.run(run())
    monkeypatch.setenv("MEETING_PUSH_KEY_PREFIX", key_prefix)
    monkeypatch.setenv("MEETING_PUSH_REDIS_URL", redis_server.url)
    text = CliRunner().invoke(app, ["redis", "report"]).stdout
    assert "offline_messages" in text
    assert f"mailbox of 30 entries: {Keys(key_prefix).mailbox(3)}" in text
    assert f"without a TTL: {Keys(key_prefix).message_log(9)}" in text
    assert "for a million" in text
    told = json.loads(CliRunner().invoke(app, ["redis", "report", "--json"]).stdout)
    assert told["kinds"]["message_body"]["keys"] == 2
    assert told["people"] == 3
    assert told["bytes_for_a_million_people"] == pytest.approx(
        told["bytes_per_person"] * 1e6, rel=0.05
    )
