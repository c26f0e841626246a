"""看一个人、看信箱：一个真的节点。"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from meeting_push.app import create_app
from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.clock import now_ms
from tests.support.eventually import eventually
from tests.support.people import device
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node
from tests.support.server_process import TEST_JWT_SECRET

USER, ADMIN = 7, 1


@pytest.fixture
async def node(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> AsyncIterator[Node]:
    async with running_node(tmp_path, embedded_redis_server.url, key_prefix) as running:
        yield running


@contextlib.asynccontextmanager
async def api_of(node: Node, user_id: int, role: str) -> AsyncIterator[httpx.AsyncClient]:
    token = AccessTokens(node.push.settings.auth, TEST_JWT_SECRET).issue(user_id, role, "", 600)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=create_app(node.push)),
        base_url="http://node/api/v1",
        headers={"authorization": f"Bearer {token}"},
    ) as api:
        yield api


@pytest.fixture
async def api(node: Node) -> AsyncIterator[httpx.AsyncClient]:
    async with api_of(node, ADMIN, "admin") as one:
        yield one


async def in_mailbox(node: Node, user_id: int, count: int) -> bool:
    return await node.push.mailbox.get_offline_message_count(user_id) == count


async def test_a_person_is_seen_whole(node: Node, api: httpx.AsyncClient) -> None:
    sent = await node.send(USER)
    person = node.person(USER)
    async with device(node.ws_url(USER, "phone"), person) as phone:
        message = await phone.next_message()
        assert message["message_id"] == sent.message_id
        await node.push.presence.flush()
        answer = await api.get(f"/users/{USER}/inspect")
    assert answer.status_code == 200, answer.text
    seen = answer.json()
    [connection] = seen["connections"]
    assert (seen["online"], seen["status"], seen["name"]) == (True, "active", None)
    assert (connection["device_id"], connection["node_id"]) == ("phone", node.push.node_id)
    [held] = seen["mailbox"]["items"]
    assert (seen["mailbox"]["count"], held["message_id"]) == (1, sent.message_id)
    assert 0 <= seen["mailbox"]["oldest_age_ms"] <= now_ms() - sent.created_at
    [last] = seen["last_messages"]
    assert (last["message_id"], last["status"], last["title"]) == (sent.message_id, "pending", "t")
    assert last["timestamp"] == sent.created_at


async def test_somebody_never_seen_is_empty(api: httpx.AsyncClient) -> None:
    seen = (await api.get("/users/99/inspect")).json()
    assert (seen["online"], seen["connections"], seen["last_messages"]) == (False, [], [])
    assert seen["mailbox"] == {"count": 0, "oldest_age_ms": None, "items": []}


async def test_the_fullest_mailbox_says_whose_and_how_old(
    node: Node, api: httpx.AsyncClient
) -> None:
    sent = [await node.send(USER) for _ in range(2)]
    await node.send(8)
    await eventually(lambda: in_mailbox(node, USER, 2))
    await eventually(lambda: in_mailbox(node, 8, 1))
    answer = (await api.get("/mailboxes", params={"order": "fullest", "limit": 1})).json()
    [fullest] = answer["items"]
    assert (fullest["user_id"], fullest["count"], fullest["online"]) == (USER, 2, False)
    assert 0 <= fullest["oldest_age_ms"] <= now_ms() - sent[0].created_at
    assert answer["complete"]


@pytest.mark.parametrize("query", [{"order": "biggest"}, {"limit": 0}, {"limit": 201}])
async def test_an_order_that_is_none_is_refused(
    api: httpx.AsyncClient, query: dict[str, str | int]
) -> None:
    answer = await api.get("/mailboxes", params=query)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")


@pytest.mark.parametrize("path", [f"/users/{USER}/inspect", "/mailboxes"])
async def test_only_administrators_look(node: Node, path: str) -> None:
    async with api_of(node, USER, "user") as own:
        answer = await own.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


async def test_every_device_of_a_person_is_kicked(node: Node, api: httpx.AsyncClient) -> None:
    person = node.person(USER)
    async with (
        device(node.ws_url(USER, "phone"), person) as phone,
        device(node.ws_url(USER, "desk"), person) as desk,
    ):
        await node.push.presence.flush()
        answer = await api.delete(f"/presence/users/{USER}/connections")
        assert answer.status_code == 204
        for one in (phone, desk):
            await eventually(lambda one=one: one.socket.close_code == 4503)  # type: ignore[misc]


async def test_nobody_kicks_the_devices_of_others(node: Node) -> None:
    async with api_of(node, 8, "user") as other:
        answer = await other.delete(f"/presence/users/{USER}/connections")
    assert answer.status_code == 403
