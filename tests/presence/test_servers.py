"""从外面看在线状态：两个真的服务器进程，REST 与 WebSocket。"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr
from redis import Redis
from websockets.exceptions import ConnectionClosed

from meeting_push.services.access_tokens import AccessTokens
from meeting_push.settings import Settings
from tests.support.eventually import eventually
from tests.support.people import Device, Person, api_of, device
from tests.support.redis_server import RedisServer
from tests.support.server_process import TEST_JWT_SECRET, ServerProcess

LEASE_S = 1
GRACE_S = 0.3
_settings = Settings(_env_file=None, jwt_secret=SecretStr(TEST_JWT_SECRET))  # type: ignore[call-arg]
_tokens = AccessTokens(_settings, TEST_JWT_SECRET)


def person(user_id: int, role: str = "user") -> Person:
    return Person(user_id, f"u{user_id}", _tokens.issue(user_id, role, f"u{user_id}", 3600))


ADMIN = person(1, "admin")
ALICE, BOB, CAROL, DAVE = (person(user_id) for user_id in (2, 3, 4, 5))
_request_ids = itertools.count(1)


class Pair:
    """共用一个 Redis 与一个数据库的两个服务器。"""

    def __init__(self, directory: Any, redis: RedisServer) -> None:
        self.redis_url = redis.url
        self.prefix = f"test-{uuid4().hex[:12]}:"
        shared = {
            "key_prefix": self.prefix,
            "node_lease_s": LEASE_S,
            "presence_grace_s": GRACE_S,
            "presence_flush_ms": 10,
        }
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


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, redis7_server: RedisServer) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("pair"), redis7_server) as both:
        yield both


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


async def test_the_owner_sees_his_devices_and_others_see_only_that_he_is_online(
    pair: Pair,
) -> None:
    async with on(pair.first, ALICE) as phone, on(pair.second, ALICE) as laptop:
        mine = await wait_count(pair.first, ALICE.user_id, 2)
        assert mine == await presence(pair.second, ALICE, ALICE.user_id)
        ids = {one["connection_id"] for one in mine["connections"]}
        assert ids == {phone.welcome["connection_id"], laptop.welcome["connection_id"]}
        assert {one["device_info"] for one in mine["connections"]} == {"phone"}
        assert {one["ip_address"] for one in mine["connections"]} == {"127.0.0.1"}
        assert await presence(pair.first, BOB, ALICE.user_id) == {
            "user_id": ALICE.user_id,
            "online": True,
            "status": "active",
            "connection_count": 2,
            "connections": [],
        }
    gone = await wait_count(pair.second, ALICE.user_id, 0)
    assert (gone["online"], gone["status"]) == (False, None)


async def test_a_heartbeat_moves_the_last_heartbeat(pair: Pair) -> None:
    async with on(pair.first, ALICE) as phone:
        before = (await wait_count(pair.first, ALICE.user_id, 1))["connections"][0]
        await phone.socket.send(json.dumps({"type": "heartbeat", "timestamp": 1}))

        async def moved() -> bool:
            [now] = (await presence(pair.second, ALICE, ALICE.user_id))["connections"]
            return bool(now["last_heartbeat"] > before["last_heartbeat"])

        await eventually(moved)


async def test_the_list_of_the_online_pages_by_id(pair: Pair) -> None:
    people = [person(user_id) for user_id in (102, 101, 104, 103, 105)]
    async with contextlib.AsyncExitStack() as stack:
        for number, one in enumerate(people):
            server = pair.first if number % 2 else pair.second
            await stack.enter_async_context(on(server, one))
        await wait_count(pair.first, 105, 1)
        found = await online(pair.first, limit=2)
        ids = [one["user_id"] for one in found if one["user_id"] > 100]
        assert ids == [101, 102, 103, 104, 105]
        assert found[-1] == {"user_id": 105, "connection_count": 1, "status": "active"}


async def test_the_list_is_for_administrators(pair: Pair) -> None:
    async with api_of(pair.first.base_url, ALICE) as api:
        assert (await api.get("/presence/online")).status_code == 403
    async with httpx.AsyncClient(base_url=pair.first.base_url, trust_env=False) as api:
        assert (await api.get("/api/v1/presence/online")).status_code == 401
        assert (await api.get("/api/v1/presence/users/1")).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/presence/users/0",
        "/presence/users/9223372036854775808",
        "/presence/users/x",
        "/presence/online?cursor=x",
        "/presence/online?limit=0",
    ],
)
async def test_bad_input_is_refused(pair: Pair, path: str) -> None:
    async with api_of(pair.first.base_url, ADMIN) as api:
        answer = await api.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")


@pytest.mark.parametrize("who", [ALICE, ADMIN], ids=["self", "admin"])
async def test_a_device_is_kicked_on_whatever_node(pair: Pair, who: Person) -> None:
    async with on(pair.first, ALICE) as phone, on(pair.first, ALICE) as laptop:
        await wait_count(pair.second, ALICE.user_id, 2)
        path = f"/presence/users/{ALICE.user_id}/connections/{phone.welcome['connection_id']}"
        async with api_of(pair.second.base_url, who) as api:
            answer = await api.delete(path)
            assert (answer.status_code, answer.content) == (204, b"")
            assert await closed(phone) == 4503
            [left] = (await wait_count(pair.second, ALICE.user_id, 1))["connections"]
            assert left["connection_id"] == laptop.welcome["connection_id"]
            assert (await api.delete(path)).status_code == 404


async def test_nobody_else_may_kick(pair: Pair) -> None:
    async with on(pair.first, ALICE) as phone:
        await wait_count(pair.first, ALICE.user_id, 1)
        path = f"/presence/users/{ALICE.user_id}/connections/{phone.welcome['connection_id']}"
        async with api_of(pair.first.base_url, BOB) as api:
            assert (await api.delete(path)).status_code == 403
        await phone.round_trip()


async def test_a_control_envelope_never_reaches_a_client(pair: Pair) -> None:
    channel = f"{pair.prefix}system:notifications"
    kick_nobody = {"type": "control", "command": "kick", "user_id": 1, "connection_id": "x"}
    notice = {"type": "notice", "code": "maintenance", "reconnect_after_ms": 0}
    async with on(pair.first, ALICE) as phone:
        with Redis.from_url(pair.redis_url) as redis:
            for envelope in (kick_nobody, {"type": "control"}, notice):
                redis.publish(channel, json.dumps(envelope))
        await eventually(lambda: phone.others)
        await phone.round_trip()
        assert phone.others == [notice]


async def test_watching_across_servers(pair: Pair) -> None:
    async with on(pair.first, BOB) as viewer:
        await watch(viewer, CAROL.user_id)
        assert states(viewer, CAROL.user_id) == [(False, None)]
        async with on(pair.second, CAROL) as phone:
            await eventually(lambda: len(states(viewer, CAROL.user_id)) == 2)
            await phone.socket.send(json.dumps({"type": "status", "status": "busy"}))
            await eventually(lambda: len(states(viewer, CAROL.user_id)) == 3)
        await eventually(lambda: len(states(viewer, CAROL.user_id)) == 4)
        assert states(viewer, CAROL.user_id) == [
            (False, None),
            (True, "active"),
            (True, "busy"),
            (False, None),
        ]


async def test_unwatching_stops_it(pair: Pair) -> None:
    async with on(pair.first, BOB) as viewer, on(pair.first, ADMIN) as other:
        await watch(viewer, DAVE.user_id)
        await watch(other, DAVE.user_id)
        await watch(viewer, DAVE.user_id, kind="unwatch")
        async with on(pair.second, DAVE):
            await eventually(lambda: len(states(other, DAVE.user_id)) == 2)
        await viewer.round_trip()
        assert len(states(viewer, DAVE.user_id)) == 1


async def test_watching_too_many_is_an_error_and_the_socket_stays(pair: Pair) -> None:
    async with on(pair.first, BOB) as viewer:
        for start in range(1000, 1600, 100):
            await watch(viewer, *range(start, start + 100))
        [error] = [frame for frame in viewer.others if frame["type"] == "error"]
        assert error["code"] == "watch_limit"
        await viewer.round_trip()


async def test_con_2_a_killed_server_leaves_no_zombies(
    tmp_path: Any, redis7_server: RedisServer
) -> None:
    """200 条连接在被 ``kill -9`` 的节点上：租约一到期读取就对，随后恰好收拾一次。"""
    with Pair(tmp_path, redis7_server) as both:
        moved = [person(user_id) for user_id in range(200, 210)]
        async with contextlib.AsyncExitStack() as survivors:
            viewer = await survivors.enter_async_context(on(both.second, BOB))
            for one in moved:
                await survivors.enter_async_context(on(both.second, one))
            await _two_hundred_then_death(both)
            await watch(viewer, 201, 301)
            await _gone_from_the_first_right_read(both)
            for one in moved:
                seen = await presence(both.second, ADMIN, one.user_id)
                assert (seen["connection_count"], len(seen["connections"])) == (1, 1)
            await eventually(lambda: states(viewer, 301)[-1] == (False, None))
            assert states(viewer, 201) == [(True, "active")]
            await eventually(lambda: _reaped(both.second))
            assert await _metric(both.second, "nodes_reaped_total") == 1
            assert await _metric(both.second, "connections_reaped_total") == 200


async def _two_hundred_then_death(both: Pair) -> None:
    """用户 200–349 在第一个服务器上有 200 条连接（50 人两条），其中 10 人在第二个上还有一条。"""
    async with contextlib.AsyncExitStack() as doomed:
        for user_id in [*range(200, 300), *range(250, 350)]:
            await doomed.enter_async_context(on(both.first, person(user_id)))

        async def everyone() -> bool:
            return len(await online(both.second)) == 151

        await eventually(everyone)
        both.first.kill()


async def _gone_from_the_first_right_read(both: Pair) -> None:
    """每次读到的要么是死前的样子，要么就已完全对：没有中间状态。"""
    before, after = 151, 11
    counts: list[int] = []

    async def gone() -> bool:
        counts.append(len(await online(both.second)))
        return counts[-1] == after

    await eventually(gone, LEASE_S + 5)
    assert set(counts) <= {before, after}


async def _reaped(server: ServerProcess) -> bool:
    return await _metric(server, "nodes_reaped_total") == 1


async def _metric(server: ServerProcess, name: str) -> float:
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as api:
        text = (await api.get("/metrics")).text
    [line] = [line for line in text.splitlines() if line.startswith(f"meeting_push_{name} ")]
    return float(line.split()[1])
