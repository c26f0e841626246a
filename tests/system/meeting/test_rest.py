"""会议的 REST：召开、邀请、列出、结束、转录；每个字段的坏法。"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.house import House
from tests.support.meetings import end, hold, live, token
from tests.support.people import Frame, Person, api_of

ROOT = Person(800_001, "root", token(800_001, role="admin", name="root"))


async def call(
    house: House, person: Person, method: str, path: str, **options: Any
) -> httpx.Response:
    async with api_of(house.near.base_url, person) as api:
        return await api.request(method, path, **options)


async def listed(house: House, person: Person, **query: Any) -> Frame:
    answer = await call(house, person, "GET", "/meetings", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_creating_answers_with_the_meeting(house: House, alice: Person, bob: Person) -> None:
    body = {"title": "评审", "participant_ids": [bob.user_id, bob.user_id, alice.user_id]}
    answer = await call(house, alice, "POST", "/meetings", json=body)
    assert answer.status_code == 201
    meeting = answer.json()
    assert len(meeting.pop("meeting_id")) == 26
    assert meeting.pop("created_at") > 1_600_000_000_000
    assert meeting == {
        "title": "评审",
        "organizer_id": alice.user_id,
        "ended_at": None,
        "seq": 0,
        "participants": [
            {"user_id": alice.user_id, "name": "alice"},
            {"user_id": bob.user_id, "name": ""},
        ],
    }


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid_input"),
        ({"title": ""}, 422, "invalid_input"),
        ({"title": "  "}, 422, "invalid_input"),
        ({"title": 5}, 422, "invalid_input"),
        ({"title": None}, 422, "invalid_input"),
        ({"title": "x" * 201}, 422, "invalid_input"),
        ({"title": "nul\x00"}, 422, "invalid_input"),
        ({"title": "t", "participant_ids": None}, 422, "invalid_input"),
        ({"title": "t", "participant_ids": ["01"]}, 422, "invalid_input"),
        ({"title": "t", "participant_ids": [True]}, 422, "invalid_input"),
        ({"title": "t", "participant_ids": [0]}, 422, "invalid_input"),
        ({"title": "t", "participant_ids": [-1]}, 422, "invalid_input"),
        ({"title": "t", "participant_ids": [2**63]}, 422, "invalid_input"),
        ({"title": "t", "participant_ids": [10**12]}, 422, "unknown_participants"),
        ({"title": "t", "participant_ids": list(range(1, 1_003))}, 413, "payload_too_large"),
        ({"title": "t", "surprise": 1}, 422, "invalid_input"),
        ([], 422, "invalid_input"),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_a_bad_field_is_refused_and_nothing_is_stored(
    house: House, alice: Person, body: Any, status: int, code: str
) -> None:
    before = await listed(house, alice, limit=1)
    answer = await call(house, alice, "POST", "/meetings", json=body)
    assert code_of(answer) == (status, code)
    assert await listed(house, alice, limit=1) == before


async def test_a_lone_surrogate_in_the_title_is_refused(house: House, alice: Person) -> None:
    raw = b'{"title": "\\ud800"}'
    headers = {"content-type": "application/json"}
    answer = await call(house, alice, "POST", "/meetings", content=raw, headers=headers)
    assert answer.status_code in (400, 422)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid_input"),
        ({"participant_ids": []}, 422, "invalid_input"),
        ({"participant_ids": ["x"]}, 422, "invalid_input"),
        ({"participant_ids": [0]}, 422, "invalid_input"),
        ({"participant_ids": [10**12]}, 422, "unknown_participants"),
        ({"participant_ids": [1], "surprise": 1}, 422, "invalid_input"),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_a_bad_invitation_is_refused(
    house: House, alice: Person, body: Any, status: int, code: str
) -> None:
    meeting_id = await hold(house.near, alice)
    answer = await call(house, alice, "POST", f"/meetings/{meeting_id}/participants", json=body)
    assert code_of(answer) == (status, code)


async def test_unknown_participants_are_named(house: House, alice: Person, bob: Person) -> None:
    body = {"title": "t", "participant_ids": [bob.user_id, 777_777]}
    answer = await call(house, alice, "POST", "/meetings", json=body)
    assert answer.json()["error"]["details"] == {"user_ids": [777_777]}


async def test_the_invited_get_in(house: House, alice: Person, bob: Person, carol: Person) -> None:
    meeting_id = await hold(house.near, alice, bob)
    body = {"participant_ids": [carol.user_id, bob.user_id]}
    answer = await call(house, alice, "POST", f"/meetings/{meeting_id}/participants", json=body)
    assert answer.status_code == 200
    ids = {p["user_id"] for p in answer.json()["participants"]}
    assert ids == {alice.user_id, bob.user_id, carol.user_id}
    async with live(house.far, carol, meeting_id):
        pass


@pytest.mark.parametrize("action", ["participants", "end"])
async def test_only_the_organizer_and_administrators_may(
    house: House, alice: Person, bob: Person, carol: Person, action: str
) -> None:
    meeting_id = await hold(house.near, alice, bob)
    path = f"/meetings/{meeting_id}/{action}"
    body = {"participant_ids": [bob.user_id]}
    assert code_of(await call(house, bob, "POST", path, json=body)) == (403, "forbidden")
    assert code_of(await call(house, carol, "POST", path, json=body)) == (404, "not_found")
    assert (await call(house, ROOT, "POST", path, json=body)).status_code == 200


@pytest.mark.parametrize("path", ["", "/transcript"])
async def test_others_do_not_learn_that_it_exists(
    house: House, alice: Person, carol: Person, path: str
) -> None:
    meeting_id = await hold(house.near, alice)
    hidden = await call(house, carol, "GET", f"/meetings/{meeting_id}{path}")
    missing = await call(house, carol, "GET", f"/meetings/{'0' * 26}{path}")
    assert hidden.json() == missing.json()
    assert (hidden.status_code, missing.status_code) == (404, 404)
    assert (await call(house, ROOT, "GET", f"/meetings/{meeting_id}{path}")).status_code == 200


async def test_a_malformed_id_is_422(house: House, alice: Person) -> None:
    assert code_of(await call(house, alice, "GET", "/meetings/1")) == (422, "invalid_input")


@pytest.mark.parametrize("path", ["/meetings", "/meetings/" + "0" * 26])
async def test_without_a_token_is_401(house: House, path: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as api:
        answer = await api.get(f"{house.near.base_url}/api/v1{path}")
    assert code_of(answer) == (401, "unauthenticated")


async def test_an_ended_meeting_takes_no_more_invitations(
    house: House, alice: Person, bob: Person
) -> None:
    meeting_id = await hold(house.near, alice)
    await end(house.near, alice, meeting_id)
    body = {"participant_ids": [bob.user_id]}
    answer = await call(house, alice, "POST", f"/meetings/{meeting_id}/participants", json=body)
    assert code_of(answer) == (409, "meeting_ended")


async def test_ending_twice_answers_the_same(house: House, alice: Person) -> None:
    meeting_id = await hold(house.near, alice)
    assert await end(house.near, alice, meeting_id) == await end(house.far, alice, meeting_id)


async def test_the_list_pages_newest_first(house: House, alice: Person, bob: Person) -> None:
    made = [await hold(house.near, alice, bob) for _ in range(3)]
    await end(house.near, alice, made[0])
    first = await listed(house, bob, limit=2)
    second = await listed(house, bob, limit=2, cursor=first["next_cursor"])
    ids = [m["meeting_id"] for m in first["items"] + second["items"]]
    assert ids[:3] == sorted(made, reverse=True)
    ended = await listed(house, bob, ended=True, limit=1)
    assert ended["items"][0]["meeting_id"] == made[0]
    active = await listed(house, bob, ended=False)
    assert made[0] not in [m["meeting_id"] for m in active["items"]]


@pytest.mark.parametrize(
    "query",
    [{"limit": 0}, {"limit": 201}, {"limit": "x"}, {"ended": "perhaps"}],
    ids=str,
)
async def test_a_bad_query_is_422(house: House, alice: Person, query: dict[str, Any]) -> None:
    answer = await call(house, alice, "GET", "/meetings", params=query)
    assert code_of(answer) == (422, "invalid_input")


async def test_the_transcript_pages_by_seq(house: House, alice: Person) -> None:
    meeting_id = await hold(house.near, alice)
    async with live(house.near, alice, meeting_id) as a:
        for number in range(3):
            await a.say(f"{number}")
        await a.segments(3)
    path = f"/meetings/{meeting_id}/transcript"
    first = (await call(house, alice, "GET", path, params={"limit": 2})).json()
    query = {"limit": 2, "cursor": first["next_cursor"]}
    second = (await call(house, alice, "GET", path, params=query)).json()
    assert [s["seq"] for s in first["items"]] == [1, 2]
    assert [s["seq"] for s in second["items"]] == [3]
    assert second["next_cursor"] is None


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 201}], ids=str)
async def test_a_bad_transcript_query_is_422(
    house: House, alice: Person, query: dict[str, Any]
) -> None:
    meeting_id = await hold(house.near, alice)
    answer = await call(house, alice, "GET", f"/meetings/{meeting_id}/transcript", params=query)
    assert code_of(answer) == (422, "invalid_input")
