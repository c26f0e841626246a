"""API 密钥在 REST 的每一扇门：哪个范围进得去，进不去的各有其码。"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import text

from meeting_push import MeetingPush, load_settings
from meeting_push.app import create_app
from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.model import KEY_PREFIX, SCOPES
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node
from tests.support.server_process import TEST_JWT_SECRET

#: 每个测试起一个节点。
pytestmark = pytest.mark.timeout(240)

API: Final = "/api/v1"
#: 除 admin 之外还有哪些范围进得去。没有写的：只有 admin，或哪枚密钥都不行。
SCOPED: Final[Mapping[str, set[str]]] = {
    "POST /messages": {"send"},
    "POST /messages/batch": {"send"},
    "GET /messages/sent": {"send"},
    "GET /messages/{message_id}": {"send"},
    "GET /people/{user_id}": {"send", "read", "presence"},
    "DELETE /messages/{message_id}": {"send"},
    "GET /messages/{message_id}/delivery": {"send", "broadcast", "read"},
    "POST /messages/broadcast": {"broadcast"},
    "GET /users/{user_id}/delivery-statistics": {"read"},
    "GET /deliveries/failures": {"read"},
    "GET /deliveries/failures/causes": {"read"},
    "GET /presence/online": {"presence"},
    "GET /presence/users/{user_id}": {"presence"},
}
#: 只有人走得了：收件箱、票据、登出，与召开会议。
PEOPLE: Final = {
    "GET /messages",
    "POST /messages/read",
    "POST /auth/ws-ticket",
    "POST /auth/logout",
    "POST /meetings",
    "GET /meetings",
}
#: 不问是谁。
OPEN: Final = {"POST /auth/register", "POST /auth/login", "POST /auth/refresh"}
FILLED: Final = {"message_id": "0" * 26, "alert_id": "0" * 26, "meeting_id": "0" * 26}
DRAFT: Final = {"recipient_ids": [2], "title": "t", "content": "c"}
BODIES: Final[Mapping[str, object]] = {
    "POST /messages": DRAFT,
    "POST /messages/batch": {"messages": [DRAFT]},
    "POST /messages/broadcast": {"title": "t", "content": "c"},
}


@pytest.fixture
async def node(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> AsyncIterator[Node]:
    async with running_node(
        tmp_path, embedded_redis_server.url, key_prefix, identity="accounts"
    ) as running:
        yield running


@pytest.fixture
async def api(node: Node) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(node.push))
    async with httpx.AsyncClient(transport=transport, base_url=f"http://node{API}") as one:
        yield one


Headers = dict[str, str]


def bearer(token: str) -> Headers:
    return {"authorization": f"Bearer {token}"}


async def made(node: Node, *scopes: str, name: str = "billing") -> Headers:
    _, key = await node.push._rooms.access.keys.create(name, scopes)
    return bearer(key)


def person(node: Node, user_id: int, role: str = "user") -> Headers:
    tokens = AccessTokens(node.push.settings.auth, TEST_JWT_SECRET)
    return bearer(tokens.issue(user_id, role, f"user-{user_id}", 600))


def code(answer: httpx.Response) -> str | None:
    return answer.json()["error"]["code"] if answer.status_code >= 400 else None


def rest_calls(node: Node) -> set[str]:
    return {
        f"{method} {route.path.removeprefix(API)}"
        for route in node.push.router.routes
        if isinstance(route, APIRoute) and route.path.startswith(API) and route.include_in_schema
        for method in (route.methods or set()) - {"HEAD"}
    }


async def called(api: httpx.AsyncClient, call: str, headers: Headers) -> httpx.Response:
    method, path = call.split(" ")
    for name, value in FILLED.items():
        path = path.replace(f"{{{name}}}", value)
    while "{" in path:
        path = path[: path.index("{")] + "2" + path[path.index("}") + 1 :]
    body = BODIES.get(call, {}) if method == "POST" else None
    return await api.request(method, path, headers=headers, json=body)


@pytest.mark.parametrize("scope", SCOPES)
async def test_every_route_lets_a_key_in_by_its_scope_or_refuses_it(
    node: Node, api: httpx.AsyncClient, scope: str
) -> None:
    calls, key = rest_calls(node), await made(node, scope)
    assert {*SCOPED, *PEOPLE, *OPEN} <= calls
    for call in sorted(calls - OPEN):
        answer = await called(api, call, key)
        refused = (answer.status_code, code(answer)) == (403, "scope")
        if call in PEOPLE:
            assert refused, call
        elif scope == "admin":
            assert call not in SCOPED or not refused, call
        else:
            assert refused is (scope not in SCOPED.get(call, ())), (call, answer.text)


async def test_an_admin_key_operates(node: Node, api: httpx.AsyncClient) -> None:
    key = await made(node, "admin")
    hook = {"version": "4", "groupKey": "{}", "status": "firing", "alerts": []}
    answers = [
        await api.get("/stats", headers=key),
        await api.get("/queues", headers=key),
        await api.get("/users/2/offline-messages", headers=key),
        await api.post("/users/2/revoke", headers=key),
        await api.post("/alerts/alertmanager", headers=key, json=hook),
    ]
    assert [one.status_code for one in answers] == [200, 200, 200, 204, 200]


BAD: Final[Mapping[str, Callable[[str], str]]] = {
    "cut": lambda key: key[:-1],
    "unknown": lambda key: KEY_PREFIX + "A" * 43,
    "two": lambda key: f"{key} {key}",
    "comma": lambda key: f"{key}, {key}",
    "unicode": lambda key: key[:-1] + "\xe9",
    "long": lambda key: key + "A" * 6_000,
    "prefix": lambda key: KEY_PREFIX,
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("call", ["POST /messages", "GET /stats", "GET /messages"])
async def test_a_bad_key_is_401_at_every_kind_of_door(
    node: Node, api: httpx.AsyncClient, kind: str, call: str
) -> None:
    _, key = await node.push._rooms.access.keys.create("billing", ["admin"])
    header = f"Bearer {BAD[kind](key)}".encode("latin-1")
    answer = await called(api, call, {"authorization": header})  # type: ignore[dict-item]
    assert (answer.status_code, code(answer)) == (401, "bad_key")
    assert key[4:20] not in answer.text


async def test_a_revoked_key_is_refused(node: Node, api: httpx.AsyncClient) -> None:
    keys = node.push._rooms.access.keys
    number, key = await keys.create("billing", ["send"])
    assert (await called(api, "POST /messages", bearer(key))).status_code == 202
    await keys.revoke(number)

    async def refused() -> bool:
        return code(await called(api, "POST /messages", bearer(key))) == "bad_key"

    await eventually(refused)


# ── 发送 ─────────────────────────────────────────────────────────────────────


async def stored(node: Node, message_id: str) -> tuple[Any, ...]:
    statement = text(
        "SELECT sender_id, sender_name, key_id FROM mp_messages WHERE message_id = :id"
    )
    (row,) = await node.push._rooms.record.database.rows(statement, {"id": message_id})
    return tuple(row)


async def sent(api: httpx.AsyncClient, headers: Headers, **more: object) -> httpx.Response:
    return await api.post("/messages", headers=headers, json={**DRAFT, **more})


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({}, {"id": None, "name": "billing"}),
        ({"sender": None}, {"id": None, "name": "billing"}),
        ({"sender": {}}, {"id": None, "name": "billing"}),
        ({"sender": {"name": "人事"}}, {"id": None, "name": "人事"}),
        ({"sender": {"id": 5}}, {"id": 5, "name": ""}),
        ({"sender": {"id": 5, "name": "eve"}}, {"id": 5, "name": "eve"}),
    ],
)
async def test_the_sender_is_the_system_or_whom_the_key_names(
    node: Node, api: httpx.AsyncClient, given: dict[str, object], seen: dict[str, object]
) -> None:
    key = await made(node, "send")
    message_id = (await sent(api, key, **given)).json()["message_id"]
    inbox = (await api.get("/messages", headers=person(node, 2))).json()["items"]
    assert [(one["message_id"], one["sender"]) for one in inbox] == [(message_id, seen)]
    number = (await node.push._rooms.access.keys.list())[0].id
    assert await stored(node, message_id) == (seen["id"] or 0, seen["name"], number)
    own = await api.get(f"/messages/{message_id}", headers=key)
    assert own.json()["sender"] == seen


@pytest.mark.parametrize(
    "sender",
    [
        *({"id": 0}, {"id": -1}, {"id": 2**53}, {"id": "x"}, {"id": 5, "role": "admin"}),
        *("eve", 5, {"name": "x" * 257}, {"name": "a\x00b"}, {"name": None}),
    ],
)
async def test_a_sender_that_can_not_be_is_422(
    node: Node, api: httpx.AsyncClient, sender: object
) -> None:
    answer = await sent(api, await made(node, "send"), sender=sender)
    assert (answer.status_code, code(answer)) == (422, "invalid_input")


@pytest.mark.parametrize("role", ["user", "admin"])
async def test_a_person_speaks_only_for_himself(
    node: Node, api: httpx.AsyncClient, role: str
) -> None:
    me = person(node, 1, role)
    one = await sent(api, me, sender={"id": 5, "name": "eve"})
    many = await api.post(
        "/messages/batch",
        headers=me,
        json={"messages": [DRAFT, {**DRAFT, "sender": {"name": "system"}}]},
    )
    assert [(x.status_code, code(x)) for x in (one, many)] == [(422, "invalid_input")] * 2
    assert (await api.get("/messages", headers=person(node, 2))).json()["items"] == []


async def test_receipts_need_somebody_to_go_to(node: Node, api: httpx.AsyncClient) -> None:
    key = await made(node, "send")
    refused = await sent(api, key, receipt=True)
    named = await sent(api, key, receipt=True, sender={"name": "hr"})
    taken = await sent(api, key, receipt=True, sender={"id": 5})
    assert [x.status_code for x in (refused, named, taken)] == [422, 422, 202]
    assert "sender.id" in refused.json()["error"]["message"]


async def test_system_messages_are_for_administrators_and_keys(
    node: Node, api: httpx.AsyncClient
) -> None:
    headers = [person(node, 1), person(node, 1, "admin"), await made(node, "send")]
    answers = [await sent(api, one, message_type="system") for one in headers]
    assert [x.status_code for x in answers] == [403, 202, 202]
    posing = await sent(api, headers[2], data={"event": "meeting_ended"})
    assert (posing.status_code, code(posing)) == (403, "forbidden")


async def test_idempotency_keys_belong_to_the_key(node: Node, api: httpx.AsyncClient) -> None:
    one, two = await made(node, "send"), await made(node, "send")
    again = {"idempotency-key": "order-17"}
    first = [await sent(api, each | again) for each in (one, two, person(node, 1))]
    second = [await sent(api, each | again) for each in (one, two, person(node, 1))]
    ids = [x.json()["message_id"] for x in first]
    assert len(set(ids)) == 3
    assert [x.json()["message_id"] for x in second] == ids
    other = await sent(api, one | again, sender={"id": 5})
    assert (other.status_code, code(other)) == (409, "idempotency_conflict")


async def test_a_key_sees_and_takes_back_only_its_own(node: Node, api: httpx.AsyncClient) -> None:
    mine, theirs = await made(node, "send"), await made(node, "send", "read")
    message_id = (await sent(api, mine, sender={"id": 5})).json()["message_id"]
    path = f"/messages/{message_id}"
    seen = [
        (await api.get(path + "/delivery", headers=each)).status_code
        for each in (mine, theirs, person(node, 5), person(node, 6))
    ]
    assert seen == [200, 200, 200, 404]
    assert (await api.get(path, headers=theirs)).status_code == 404
    answers = [await api.delete(path, headers=each) for each in (theirs, mine)]
    assert [each.status_code for each in answers] == [404, 204]
    assert code(answers[0]) == "not_found"


async def test_a_broadcast_by_a_key(node: Node, api: httpx.AsyncClient) -> None:
    key = await made(node, "broadcast")
    body = {"title": "t", "content": "c", "message_type": "system"}
    again = {"idempotency-key": "b"}
    answers = [
        await api.post("/messages/broadcast", headers=key | again, json=body) for _ in range(2)
    ]
    (message_id,) = {x.json()["message_id"] for x in answers}
    assert (await stored(node, message_id))[:2] == (0, "billing")
    state = await api.get(f"/messages/{message_id}/delivery", headers=key)
    assert (state.status_code, state.json()["total"]) == (200, None)
    assert (await sent(api, key)).status_code == 403


async def test_devices_are_shown_to_a_key_of_scope_presence(
    node: Node, api: httpx.AsyncClient
) -> None:
    key = await made(node, "presence")
    shown = await api.get("/presence/users/2", headers=key)
    assert (shown.status_code, shown.json()["connections"]) == (200, [])
    kick = await api.delete("/presence/users/2/connections", headers=key)
    assert (kick.status_code, code(kick)) == (403, "scope")


async def test_unknown_people_are_not_spoken_for(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> None:
    """账号归我们：替谁发，他也得在。"""
    settings = load_settings(
        data_dir=tmp_path,
        redis_url=embedded_redis_server.url,
        key_prefix=key_prefix,
        jwt_secret=TEST_JWT_SECRET,
    )
    push = MeetingPush(settings, identity="accounts")
    await push.start()
    try:
        api = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=create_app(push)), base_url=f"http://node{API}"
        )
        ann = await api.post(
            "/auth/register", json={"username": "ann", "password": "long enough 7"}
        )
        _, key = await push._rooms.access.keys.create("billing", ["send"])
        draft = {"recipient_ids": [ann.json()["user_id"]], "title": "t", "content": "c"}
        refused = await api.post(
            "/messages", headers=bearer(key), json={**draft, "sender": {"id": 999}}
        )
        assert (refused.status_code, code(refused)) == (422, "invalid_input")
        assert "sender.id" in refused.json()["error"]["message"]
        await api.aclose()
    finally:
        await push.stop()


async def test_a_key_speaks_for_people_whose_ids_are_strings(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> None:
    async with running_node(
        tmp_path, embedded_redis_server.url, key_prefix, identity="application"
    ) as node:
        transport = httpx.ASGITransport(app=create_app(node.push))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://node{API}") as api:
            key, ann = await made(node, "send", "read"), "ann-7f3a"
            body = {"recipient_ids": ["bob-01"], "sender": {"id": ann, "name": "Ann"}}
            answer = await sent(api, key, receipt=True, **body)
            assert answer.status_code == 202, answer.text
            path = f"/messages/{answer.json()['message_id']}"
            shown = await api.get(path, headers=key)
            assert shown.json()["sender"] == {"id": ann, "name": "Ann"}
            state = await api.get(path + "/delivery", headers=key)
            assert [one["user_id"] for one in state.json()["recipients"]] == ["bob-01"]
            bad = await sent(api, key, sender={"id": "no spaces"})
            assert (bad.status_code, code(bad)) == (422, "invalid_input")


async def test_openapi_says_which_calls_take_a_key(node: Node) -> None:
    document = create_app(node.push).openapi()
    assert document["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    taken = {
        f"{method.upper()} {path.removeprefix(API)}"
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if {"ApiKey": []} in operation.get("security", [])
    }
    assert set(SCOPED) <= taken
    assert not taken & (PEOPLE | OPEN)
