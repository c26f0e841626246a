"""C2、C3、C8：游标、号与 id 的边界，在每个列表上。"""

from __future__ import annotations

import pytest

from tests.support.people import Person, api_of
from tests.support.server_process import ServerProcess

LISTS = [
    "/messages",
    "/messages/sent",
    f"/messages/{'0' * 26}/delivery",
    "/presence/online",
    "/deliveries/failures",
    "/queues/dead-letter",
    "/meetings",
    f"/meetings/{'0' * 26}/transcript",
]
JUNK = ["", " ", "x", "%00", "-1", "1e3", "٣", "0" * 27, "9" * 40, "1-1-1", "1:2:3", "\n", "null"]
TOO_BIG = 2**53


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("cursor", JUNK, ids=repr)
async def test_c3_a_junk_cursor_is_422_on_every_list(
    server: ServerProcess, admin: Person, path: str, cursor: str
) -> None:
    """C3: 0.1 answered some of them with an empty page."""
    async with api_of(server.base_url, admin) as api:
        answer = await api.get(path, params={"cursor": cursor})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_cursor")


BAD_STREAM_IDS = [
    *("0-0", "00-00", "18446744073709551616-0", "1-18446744073709551616", "99999999999999999999-1"),
    *("1", "-1-1", "1-", "+", "-", "$", "1-1\n", "1-*"),
]


@pytest.mark.parametrize("cursor", BAD_STREAM_IDS)
async def test_c2_a_bad_stream_id_is_422_not_500(
    server: ServerProcess, admin: Person, cursor: str
) -> None:
    """C2: as a cursor and as an id to send again."""
    async with api_of(server.base_url, admin) as api:
        listed = await api.get("/queues/dead-letter", params={"cursor": cursor})
        again = await api.post("/queues/dead-letter/requeue", json={"ids": [cursor]})
    assert (listed.status_code, listed.json()["error"]["code"]) == (422, "invalid_cursor")
    assert (again.status_code, again.json()["error"]["code"]) == (422, "invalid_input")


@pytest.mark.parametrize(
    "letter", ["0-1", "1-0", "9999999999999999999-9999999999999999999", "1700000000000-0"]
)
async def test_c2_a_good_stream_id_is_taken(
    server: ServerProcess, admin: Person, letter: str
) -> None:
    """C2: the edges inside."""
    async with api_of(server.base_url, admin) as api:
        listed = await api.get("/queues/dead-letter", params={"cursor": letter})
        again = await api.post("/queues/dead-letter/requeue", json={"ids": [letter]})
    assert (listed.status_code, again.status_code) == (200, 200)


@pytest.mark.parametrize("user_id", [TOO_BIG, 2**63 - 1, 2**63, 10**30, 0, -1])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/presence/users/{}"),
        ("DELETE", "/presence/users/{}/connections/x"),
        ("POST", "/users/{}/revoke"),
        ("GET", "/users/{}/delivery-statistics"),
        ("GET", "/users/{}/offline-messages"),
        ("GET", "/users/{}/offline-messages/count"),
        ("DELETE", "/users/{}/offline-messages"),
        ("POST", "/deliveries/failures/" + "0" * 26 + "/{}/requeue"),
    ],
)
async def test_c8_an_id_beyond_2_53_is_refused_in_every_path(
    server: ServerProcess, admin: Person, method: str, path: str, user_id: int
) -> None:
    """C8: JavaScript would read another number."""
    async with api_of(server.base_url, admin) as api:
        answer = await api.request(method, path.format(user_id))
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("user_id", [TOO_BIG, 2**63 - 1])
async def test_c8_an_id_beyond_2_53_is_refused_in_every_body(
    server: ServerProcess, alice: Person, user_id: int
) -> None:
    """C8: as recipient and as participant."""
    draft = {"recipient_ids": [user_id], "title": "t", "content": "c"}
    async with api_of(server.base_url, alice) as api:
        answers = [
            await api.post("/messages", json=draft),
            await api.post("/messages/batch", json={"messages": [draft]}),
            await api.post("/meetings", json={"title": "t", "participant_ids": [user_id]}),
        ]
    assert [(a.status_code, a.json()["error"]["code"]) for a in answers] == [
        (422, "invalid_input")
    ] * 3
