"""``docs/redis-data.md`` 与真的 Redis：用过各种功能之后，每个键在页上，类型与活多久就是它说的。"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from redis.asyncio import Redis

from meeting_push import Draft, Sender
from meeting_push.clock import now_ms
from meeting_push.redis.keys import Keys
from tests.support.citations import DOCS
from tests.support.eventually import eventually
from tests.support.people import device
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node

pytestmark = pytest.mark.timeout(240)

PAGE: Final = (DOCS / "redis-data.md").read_text()
#: 页上怎样说 → Redis 的 ``TYPE``。
TYPES: Final = {"串": "string", "流": "stream", "HyperLogLog": "string"}
#: ``TTL`` 说没有期限。
FOR_EVER: Final = -1
#: ``Keys`` 里不是键的，与频道。
HIDDEN: Final = {
    name for name in vars(Keys) if name.startswith("_") or name.endswith("_channel")
} | {"prefix", "tagged", "is_sharded", "sharded"}
#: 这个测试走得到的；别的（死信、撤回、会议、票据 …）各有自己的测试。
SEEN: Final = {
    *("online_users:{uid}", "online_users_set", "user_connections_count:{uid}", "node:<id>"),
    *("nodes", "node_connections:<id>", "user_slots:{uid}", "node_reports", "database_claim"),
    *("offline_messages:{uid}", "message_log:{uid}", "user_seq:{uid}", "broadcast_cursor:{uid}"),
    *("message_body:<message_id>", "message_delivery_status:<message_id>", "broadcast_log"),
    *("{broadcast_log}:ids", "delayed_message_queue", "delivery_generation"),
}


class Row(NamedTuple):
    """一个键：``pattern`` 认得出它的名字。"""

    name: str
    pattern: re.Pattern[str]
    type: str
    lives: str


def rows() -> list[Row]:
    """有“类型”一栏的表里的每个键；一行几个的各是一个。"""
    found: list[Row] = []
    for line in PAGE.splitlines():
        cells = re.split(r" (?<!\\)\| ", line.removeprefix("| ").removesuffix(" |"))
        if len(cells) == 8 and cells[0].startswith("`"):
            names = re.findall(r"`([^`]+)`", cells[0])
            types, lives = (cells[index].split(" · ") for index in (1, 5))
            for number, name in enumerate(names):
                found.append(Row(name, pattern(name), _of(types, number), _of(lives, number)))
    return found


def _of(values: list[str], number: int) -> str:
    return values[min(number, len(values) - 1)]


def pattern(name: str) -> re.Pattern[str]:
    """``{uid}``、``{tag}`` 与 ``<id>`` 是占位的。"""
    holes = re.sub(r"\\\{(?:uid|meeting_id|tag)\\\}", r"\\{.+\\}", re.escape(name))
    return re.compile(re.sub(r"<\w+>", ".+", holes) + r"\Z")


ROWS: Final = rows()


async def used(node: Node) -> None:
    """给不在线的、发给所有人的、预约的；在线的收到了还没有确认。"""
    alice = Sender(1, "a")
    await node.send(8)
    later = Draft(recipient_ids=(8,), title="t", content="c", deliver_at=now_ms() + 3_600_000)
    await node.push.messages.send_batch(alice, [later])
    await node.push.broadcasts.send_broadcast(
        alice, Draft(recipient_ids=(), title="t", content="c")
    )


async def stored(redis: Redis, prefix: str) -> set[str]:
    """在那里的，各归页上的哪一行。"""
    named = [key.replace(prefix, "") async for key in redis.scan_iter(match=f"*{prefix}*")]
    return {one.name for one in ROWS for name in named if one.pattern.match(name)}


async def test_every_key_in_redis_has_its_row_its_type_and_its_lifetime(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    redis = Redis.from_url(redis_server.url, decode_responses=True)

    missing = set(SEEN)

    async def all_there() -> bool:
        missing.difference_update(await stored(redis, key_prefix))
        return not missing

    async with (
        running_node(tmp_path, redis_server.url, key_prefix) as node,
        redis,
        device(node.ws_url(7, "phone"), node.person(7)) as phone,
    ):
        await node.send(7)
        await used(node)
        await phone.next_message()
        with contextlib.suppress(AssertionError):
            await eventually(all_there, 60)
        assert missing == set()
        assert [one async for one in differing(redis, key_prefix)] == []


async def differing(redis: Redis, prefix: str) -> AsyncIterator[str]:
    """页上没有的，类型、有没有期限与页上不一样的；此刻刚没了的不算。"""
    async for raw in redis.scan_iter(match=f"*{prefix}*"):
        name = raw.replace(prefix, "")
        found = [one for one in ROWS if one.pattern.match(name)]
        kind = str(await redis.type(raw))
        left = await redis.ttl(raw)
        if kind == "none":
            continue
        if len(found) != 1:
            yield f"{name}: {len(found)} rows"
            continue
        [row] = found
        if kind != TYPES.get(row.type, row.type):
            yield f"{name} is a {kind}, not {row.type}"
        if (left == FOR_EVER) != row.lives.startswith("无"):
            yield f"{name} lives {left} s, not {row.lives}"


def test_every_row_is_a_key_of_the_code() -> None:
    """反过来由 ``tests/test_docs.py`` 守着。"""
    keys = Keys()
    made = {
        value(*("<x>" for _ in inspect.signature(value).parameters)) if callable(value) else value
        for value in (getattr(keys, name) for name in vars(Keys) if name not in HIDDEN)
    }
    made |= {f"{name}:{{1}}" for name in made}  # 一段槽一个的
    strange = [
        one.name
        for one in ROWS
        if not any(one.pattern.match(name.replace("{<x>}", "{1}")) for name in made)
        and not one.name.startswith("<队列>")
    ]
    assert strange == []


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("online_users:{uid}", "online_users:{42}"),
        ("probe:{<id>}", "probe:{a-b}"),
        ("{broadcast_log}:ids", "{broadcast_log}:ids"),
        ("<队列>:known", "bulk_message_queue:known"),
    ],
)
def test_a_row_knows_its_key(name: str, key: str) -> None:
    assert [one.name for one in ROWS if one.pattern.match(key)] == [name]
