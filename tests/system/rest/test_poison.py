"""A3、C1：收下的就送得出去；送不出去的，在门口就说。"""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from meeting_push.model import Draft
from meeting_push.storage.database import Database
from tests.support.accounts import resident
from tests.support.people import Person, api_of, device, send
from tests.support.server_process import ServerProcess


def nested(depth: int, kind: str = "list") -> str:
    """``data`` 自己是第 1 层的 JSON 原文。"""
    opening, closing = ("[", "]") if kind == "list" else ('{"k":', "}")
    inner = "1" if kind == "dict" else ""
    return '{"d":' + opening * (depth - 1) + inner + closing * (depth - 1) + "}"


def body(to: Person, data: str, **fields: Any) -> bytes:
    head = {"recipient_ids": [to.user_id], "title": "t", "content": "c", **fields}
    return json.dumps(head)[:-1].encode() + b',"data":' + data.encode() + b"}"


async def post(server: ServerProcess, sender: Person, path: str, content: bytes) -> tuple[int, str]:
    headers = {"content-type": "application/json"}
    async with api_of(server.base_url, sender) as api:
        answer = await api.post(path, content=content, headers=headers)
    parsed = answer.json()
    return answer.status_code, parsed.get("error", {}).get("code", "")


async def inbox_status(server: ServerProcess, who: Person) -> int:
    async with api_of(server.base_url, who) as api:
        return (await api.get("/messages", params={"limit": 200})).status_code


@pytest.mark.parametrize("kind", ["list", "dict"])
@pytest.mark.parametrize("depth", [33, 64, 255, 256, 900, 995, 5_000])
async def test_a3_what_is_nested_too_deeply_is_refused_at_the_door(
    server: ServerProcess, alice: Person, bob: Person, depth: int, kind: str
) -> None:
    """A3: one codec, one limit; the inbox lives."""
    assert await post(server, alice, "/messages", body(bob, nested(depth, kind))) == (
        422,
        "invalid_input",
    )
    batch = b'{"messages":[' + body(bob, nested(depth, kind)) + b"]}"
    assert (await post(server, alice, "/messages/batch", batch))[0] == 422
    assert await inbox_status(server, bob) == 200


async def test_a3_a_broadcast_obeys_the_same_limit(server: ServerProcess, admin: Person) -> None:
    """A3: another door, the same rule."""
    content = b'{"title":"t","content":"c","data":' + nested(256).encode() + b"}"
    assert (await post(server, admin, "/messages/broadcast", content))[0] == 422


@pytest.mark.parametrize(
    "data",
    [
        nested(32),
        nested(32, "dict"),
        '{"a":["\\\\u0000","\\u00e9","\\ud83d\\ude00","\\u2028"]}',
        '{"big":9223372036854775807,"small":-9223372036854775808,"u":18446744073709551615}',
        '{"f":1.7976931348623157e308,"tiny":5e-324,"e":1E2}',
        '{"":{"":[[],{},null,true]},"  \\"x ":""}',
        '{"brackets":"' + "[{" * 500 + '"}',
    ],
    ids=lambda data: data[:32],
)
async def test_a3_what_is_accepted_is_served_by_rest_and_by_socket_alike(
    server: ServerProcess, alice: Person, data: str
) -> None:
    """A3, C1: the six characters of an escaped NUL are text; everything comes back as sent."""
    bob = await resident(server.database_url, f"poison-{uuid4().hex}")  # 谁也没有给他留过什么
    async with device(server.ws_url(bob.user_id), bob) as phone:
        headers = {"content-type": "application/json"}
        async with api_of(server.base_url, alice) as api:
            answer = await api.post("/messages", content=body(bob, data), headers=headers)
        assert answer.status_code == 202, answer.text
        frame = await phone.next_message()
        await phone.ack(frame["message_id"])
    async with api_of(server.base_url, bob) as api:
        stored = (await api.get(f"/messages/{answer.json()['message_id']}")).json()
        listed = (await api.get("/messages", params={"limit": 1})).json()["items"][0]
    sent = json.loads(data)
    assert frame["data"] == sent
    assert stored["data"] == sent
    assert listed["data"] == sent


@pytest.mark.parametrize(
    "data",
    [
        *('{"n":NaN}', '{"n":Infinity}', '{"n":-Infinity}', '{"n":1e400}', '{"n":-1e400}'),
        '{"n":[[{"m":NaN}]]}',
        '{"n":18446744073709551616}',
        '{"n":' + "9" * 5_000 + "}",
        '{"s":"\\u0000"}',
        '{"s":"\\\\\\u0000"}',
        '{"\\u0000":1}',
        *("[1]", '"text"', "5", "true"),
    ],
    ids=lambda data: data[:32],
)
async def test_c1_what_can_not_be_delivered_as_it_is_is_refused(
    server: ServerProcess, alice: Person, bob: Person, data: str
) -> None:
    """C1: 0.1 answered 202 and delivered null."""
    status, code = await post(server, alice, "/messages", body(bob, data))
    assert (status, code) == (422, "invalid_input")


async def test_c1_not_a_number_is_refused_wherever_it_stands(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    """C1: also outside ``data``."""
    content = body(bob, "null").replace(b'"title": "t"', b'"title": "t", "priority": NaN')
    assert (await post(server, alice, "/messages", content))[0] == 422


@pytest.mark.parametrize(("stored", "served"), [(nested(900), nested(900)), ('{"d', "null")])
async def test_a3_poison_in_the_record_does_not_close_the_inbox(
    server: ServerProcess, alice: Person, bob: Person, stored: str, served: str
) -> None:
    """A3: 900 levels (0.1 took them), half a value: the inbox is served, the message with it."""
    message_id = await send(server.base_url, alice, [bob], data={"d": 1})
    database = Database(f"sqlite:///{server.directory / 'data' / 'meeting-push.db'}")
    try:
        statement = "UPDATE mp_messages SET data = ? WHERE message_id = ?"
        await database.write_sqlite([(statement, (stored, message_id))])
    finally:
        await database.dispose()
    async with api_of(server.base_url, bob) as api:
        answer = await api.get("/messages", params={"limit": 1})
    assert answer.status_code == 200
    assert f'"data":{served}' in answer.text.replace(" ", "")


def test_a3_a_draft_of_the_application_obeys_the_same_limits() -> None:
    """A3, C1: Python values (``send_message``, ``send_in_transaction``) meet the same codec."""
    from meeting_push.accept.drafts import DraftRules
    from meeting_push.errors import InvalidInputError
    from meeting_push.settings import Settings

    rules = DraftRules(Settings().messages)
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"d": deep}
    cycle: dict[str, Any] = {}
    cycle["c"] = cycle
    bad: list[Any] = [
        *(deep, cycle, {"n": float("nan")}, {"n": [float("inf")]}, {"n": 2**70}),
        *({"s": "\x00"}, {"s": "\ud800"}, {"o": object()}, [1], "text"),
    ]
    for data in bad:
        draft = Draft(recipient_ids=(1,), title="t", content="c", data=data)
        with pytest.raises(InvalidInputError):
            rules.check(draft, 0)
