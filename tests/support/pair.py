"""从外面看在线状态：共用一个 Redis 与一个数据库的两个服务器进程，和问它们的方法。"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
from pydantic import SecretStr
from websockets.exceptions import ConnectionClosed

from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.settings import Settings
from tests.support.eventually import eventually
from tests.support.people import Device, Person, api_of, device
from tests.support.redis_server import RedisServer
from tests.support.server_process import TEST_JWT_SECRET, ServerProcess

#: 租期与宽限缩到一秒上下。
QUICK: Final = {"node_lease_s": 1, "presence_grace_s": 0.3, "presence_flush_ms": 10}
_settings = Settings(_env_file=None, jwt_secret=SecretStr(TEST_JWT_SECRET))
_tokens = AccessTokens(_settings.auth, TEST_JWT_SECRET)


def person(user_id: int, role: str = "user") -> Person:
    return Person(user_id, f"u{user_id}", _tokens.issue(user_id, role, f"u{user_id}", 3600))


ADMIN = person(1, "admin")
ALICE, BOB, CAROL, DAVE = (person(user_id) for user_id in (2, 3, 4, 5))
_request_ids = itertools.count(1)


class Pair:
    """共用一个 Redis 与一个数据库的两个服务器。"""

    def __init__(
        self, directory: Path, redis: RedisServer, settings: Mapping[str, object] = QUICK
    ) -> None:
        self.redis_url = redis.url
        self.prefix = f"test-{uuid4().hex[:12]}:"
        shared = {"key_prefix": self.prefix, **settings}
        self.first, self.second = (
            ServerProcess(directory, redis_url=redis.url, settings=shared) for _ in range(2)
        )

    def __enter__(self) -> Pair:
        self.first.start()
        self.second.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.first.stop()
        self.second.stop()


async def presence(server: ServerProcess, viewer: Person, user_id: int) -> dict[str, Any]:
    async with api_of(server.base_url, viewer) as api:
        answer = await api.get(f"/presence/users/{user_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def online(server: ServerProcess, limit: int = 500) -> list[dict[str, Any]]:
    """全部在线用户，翻页取来。"""
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    async with api_of(server.base_url, ADMIN) as api:
        while True:
            query = {"limit": limit} | ({"cursor": cursor} if cursor else {})
            answer = await api.get("/presence/online", params=query)
            assert answer.status_code == 200, answer.text
            items += answer.json()["items"]
            cursor = answer.json()["next_cursor"]
            if cursor is None:
                return items


async def wait_count(server: ServerProcess, user_id: int, count: int) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    async def reached() -> bool:
        seen.update(await presence(server, ADMIN, user_id))
        return bool(seen["connection_count"] == count)

    await eventually(reached)
    return seen


@contextlib.asynccontextmanager
async def on(server: ServerProcess, who: Person) -> AsyncIterator[Device]:
    async with device(server.ws_url(who.user_id, device_info="phone"), who) as one:
        yield one


def states(viewer: Device, user_id: int) -> list[tuple[bool, str | None]]:
    frames = [f for f in viewer.others if f["type"] == "presence" and f["user_id"] == user_id]
    return [(frame["online"], frame["status"]) for frame in frames]


async def watch(viewer: Device, *user_ids: int, kind: str = "watch") -> None:
    request = {"type": kind, "user_ids": list(user_ids), "request_id": next(_request_ids)}
    await viewer.socket.send(json.dumps(request))

    def answered() -> bool:
        return any(f.get("request_id") == request["request_id"] for f in viewer.others)

    await eventually(answered)


async def closed(one: Device) -> int:
    with contextlib.suppress(ConnectionClosed):
        await asyncio.wait_for(one.reader, 10)
    code = one.socket.close_code
    assert code is not None
    return code


async def metric(server: ServerProcess, name: str) -> float:
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as api:
        text = (await api.get("/metrics")).text
    [line] = [line for line in text.splitlines() if line.startswith(f"meeting_push_{name} ")]
    return float(line.split()[1])
