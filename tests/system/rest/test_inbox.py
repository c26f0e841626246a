"""收件箱，从外面看：广播在里面，归档、未读、数目、查找，发出去的；每种坏输入有它的码。"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.accounts import resident
from tests.support.event_streams import event_stream
from tests.support.eventually import eventually
from tests.support.house import House, house_fixture
from tests.support.people import Person, api_of, device, send
from tests.support.server_process import ServerProcess
from tests.system.broadcast.conftest import broadcast

UNKNOWN = "0" * 26
house = house_fixture(
    {"near": ("all", {}), "far": ("all", {"edge": "asgi"}), "gate": ("gateway", {})}
)


@pytest.fixture
async def ann(server: ServerProcess) -> Person:
    return await resident(server.database_url, f"ann-{uuid4().hex[:8]}")


@pytest.fixture
async def ben(server: ServerProcess) -> Person:
    return await resident(server.database_url, f"ben-{uuid4().hex[:8]}")


async def got(server: ServerProcess, who: Person, path: str, **query: Any) -> dict[str, Any]:
    async with api_of(server.base_url, who) as api:
        answer = await api.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def listed(server: ServerProcess, who: Person, **query: Any) -> list[str]:
    page = await got(server, who, "/messages", **query)
    return [item["message_id"] for item in page["items"]]


async def state(server: ServerProcess, who: Person, **body: Any) -> httpx.Response:
    async with api_of(server.base_url, who) as api:
        return await api.post("/messages/state", json=body)


async def test_f6_a_broadcast_stays_in_the_inbox_and_the_badge_counts_it(
    server: ServerProcess, ann: Person, ben: Person
) -> None:
    """F6：从前一重新读取就没有了，角标也不数它。"""
    written = await send(server.base_url, ann, [ben])
    loud = await broadcast(server, title="to all", priority=7)
    page = await got(server, ben, "/messages")
    assert [item["message_id"] for item in page["items"]] == [loud, written]
    assert [item["broadcast"] for item in page["items"]] == [True, False]
    assert page["unread_count"] == 2
    assert (await got(server, ben, f"/messages/{loud}"))["title"] == "to all"
    counts = await got(server, ben, "/messages/counts")
    assert (counts["unread"], counts["urgent"], counts["archived"]) == (2, 1, 0)
    answer = await state(server, ben, message_ids=[loud], read=True)
    assert answer.json()["unread_count"] == 1
    newcomer = await resident(server.database_url, f"new-{uuid4().hex[:8]}")
    assert await listed(server, newcomer) == []
    assert loud in await listed(server, ann)


async def test_another_device_is_told_what_changed(
    server: ServerProcess, ann: Person, ben: Person
) -> None:
    one, two = [await send(server.base_url, ann, [ben]) for _ in range(2)]
    async with device(server.ws_url(ben.user_id), ben) as phone:
        first = (await state(server, ben, message_ids=[one, UNKNOWN], archived=True)).json()
        assert (first["unread_count"], first["unknown"]) == (1, [UNKNOWN])
        await state(server, ben, message_ids=[one], archived=True)  # 没有变：不说
        second = (await state(server, ben, message_ids=[two], read=True, archived=False)).json()

        def heard() -> list[dict[str, Any]]:
            return [frame for frame in phone.others if frame["type"] == "inbox_sync"]

        await eventually(lambda: len(heard()) >= 2)
        told = heard()
    assert told == [
        {
            "type": "inbox_sync",
            "message_ids": [one],
            "archived": True,
            "unread_count": 1,
            "version": first["version"],
        },
        {
            "type": "inbox_sync",
            "message_ids": [two],
            "read": True,
            "archived": False,
            "unread_count": 0,
            "version": second["version"],
        },
    ]
    assert second["version"] > first["version"]
    assert (await got(server, ben, "/messages/counts"))["version"] == second["version"]
    assert await listed(server, ben) == [two]
    assert await listed(server, ben, archived="true") == [one]


async def test_what_was_sent_is_listed_with_its_recipients_counted(
    server: ServerProcess, ann: Person, ben: Person
) -> None:
    sent = [await send(server.base_url, ann, [ben, ann], title=f"no. {n}") for n in range(3)]
    page = await got(server, ann, "/messages/sent", limit=2)
    assert [item["message_id"] for item in page["items"]] == sent[:0:-1]
    both = sorted((ann.user_id, ben.user_id))
    assert [one["user_id"] for one in page["items"][0]["recipients"]] == both
    assert [item["recipient_count"] for item in page["items"]] == [2, 2]
    rest = await got(server, ann, "/messages/sent", limit=2, cursor=page["next_cursor"])
    assert [item["message_id"] for item in rest["items"]] == sent[:1]
    assert (await got(server, ben, "/messages/sent"))["items"] == []


async def test_a_search_and_filters_through_the_door(
    server: ServerProcess, ann: Person, ben: Person
) -> None:
    found = await send(server.base_url, ann, [ben], content="明天的例会改到 3 点", priority=6)
    await send(server.base_url, ann, [ben], content="别的", message_type="notification")
    assert await listed(server, ben, q="例会") == [found]
    assert await listed(server, ben, q="例") == [found]
    assert await listed(server, ben, q="例会", min_priority=7) == []
    assert await listed(server, ben, message_type="message", unread="true") == [found]


@pytest.mark.parametrize(
    "query",
    [
        *({"q": ""}, {"q": "x" * 101}, {"q": "nul\x00"}, {"min_priority": -1}),
        *({"min_priority": 10}, {"min_priority": "high"}, {"message_type": "shout"}),
        *({"archived": "maybe"}, {"unread": "2"}, {"limit": 0}, {"limit": 201}),
    ],
)
async def test_a_bad_filter_is_422(
    server: ServerProcess, ann: Person, query: dict[str, Any]
) -> None:
    async with api_of(server.base_url, ann) as api:
        answer = await api.get("/messages", params=query)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"message_ids": [UNKNOWN]}, {"read": True}, {"message_ids": [], "read": True}),
        {"message_ids": [UNKNOWN] * 1_001, "read": True},
        {"message_ids": [UNKNOWN], "read": None, "archived": None},
        {"message_ids": [UNKNOWN], "read": "yes"},
        {"message_ids": [UNKNOWN], "archived": 1},
        {"message_ids": [1], "read": True},
        {"message_ids": ["x"], "read": True},
        {"message_ids": UNKNOWN, "read": True},
        {"message_ids": [UNKNOWN], "read": True, "starred": True},
    ],
    ids=repr,
)
async def test_a_bad_state_is_422(server: ServerProcess, ann: Person, body: dict[str, Any]) -> None:
    answer = await state(server, ann, **body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")


async def test_sec_1_foreign_and_unknown_ids_look_alike_and_stay(
    server: ServerProcess, ann: Person, ben: Person
) -> None:
    theirs = await send(server.base_url, ann, [ben])
    answer = await state(server, ann, message_ids=[theirs, UNKNOWN], read=True, archived=True)
    assert answer.status_code == 200
    assert sorted(answer.json()["unknown"]) == sorted([theirs, UNKNOWN])
    assert await listed(server, ben, unread="true") == [theirs]


async def test_a_stranger_is_told_nothing(server: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=f"{server.base_url}/api/v1", trust_env=False) as api:
        for path in ("/messages", "/messages/sent", "/messages/counts"):
            assert (await api.get(path)).status_code == 401
        body = {"message_ids": [UNKNOWN], "read": True}
        assert (await api.post("/messages/state", json=body)).status_code == 401


@pytest.mark.parametrize("door", ["near", "far", "gate"])
async def test_every_door_carries_it(house: House, door: str) -> None:
    """两种 edge、单独的网关；WebSocket 与事件流。"""
    [ann, ben] = await house.people(2)
    written = await send(house.near.base_url, ann, [ben])
    there = house[door]
    stream = f"{there.base_url}/sse/user/{ben.user_id}/messages"
    async with (
        device(there.ws_url(ben.user_id), ben) as phone,
        event_stream(stream, ben.headers) as events,
    ):
        assert (await events.frame())["type"] == "welcome"
        await state(house.near, ben, message_ids=[written], archived=True)
        while (frame := await events.frame())["type"] != "inbox_sync":
            pass
        assert (frame["message_ids"], frame["archived"]) == ([written], True)
        await eventually(lambda: frame in phone.others)
