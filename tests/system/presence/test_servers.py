"""从外面看在线状态：两个真的服务器进程，REST 与 WebSocket。"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import httpx
import pytest
from redis import Redis

from tests.support.eventually import eventually
from tests.support.pair import (
    ADMIN,
    ALICE,
    BOB,
    CAROL,
    DAVE,
    Pair,
    closed,
    on,
    online,
    person,
    presence,
    states,
    wait_count,
    watch,
)
from tests.support.people import Person, api_of
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, redis7_server: RedisServer) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("pair"), redis7_server) as both:
        yield both


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
    ("path", "code"),
    [
        ("/presence/users/0", "invalid_input"),
        ("/presence/users/9223372036854775808", "invalid_input"),
        ("/presence/users/x", "invalid_input"),
        ("/presence/online?cursor=x", "invalid_cursor"),
        ("/presence/online?limit=0", "invalid_input"),
    ],
)
async def test_bad_input_is_refused(pair: Pair, path: str, code: str) -> None:
    async with api_of(pair.first.base_url, ADMIN) as api:
        answer = await api.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, code)


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
