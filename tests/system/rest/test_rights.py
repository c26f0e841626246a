"""A17：谁可以发什么。"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.people import Person, api_of
from tests.support.server_process import ServerProcess

FORGED: list[dict[str, Any]] = [
    {"message_type": "system"},
    {"message_type": "notification", "data": {"event": "meeting_ended", "meeting_id": "0" * 26}},
    {"message_type": "message", "data": {"x": 1, "event": "meeting_ended"}},
]


@pytest.mark.parametrize("fields", FORGED, ids=str)
async def test_a17_a_user_can_not_speak_as_the_system(
    server: ServerProcess, alice: Person, bob: Person, fields: dict[str, Any]
) -> None:
    """A17: neither alone nor in a batch; nothing is stored."""
    draft = {"recipient_ids": [bob.user_id], "title": "forged", "content": "c", **fields}
    good = {"recipient_ids": [bob.user_id], "title": "forged", "content": "c"}
    async with api_of(server.base_url, alice) as api:
        answers = [
            await api.post("/messages", json=draft),
            await api.post("/messages/batch", json={"messages": [good, draft]}),
        ]
    async with api_of(server.base_url, bob) as api:
        titles = [one["title"] for one in (await api.get("/messages")).json()["items"]]
    assert [a.json()["error"]["code"] for a in answers] == ["forbidden"] * 2
    assert "forged" not in titles


async def test_a17_an_administrator_may(server: ServerProcess, admin: Person, bob: Person) -> None:
    """A17: the contract: admins and keys."""
    body = {"recipient_ids": [bob.user_id], "title": "t", "content": "c", "message_type": "system"}
    async with api_of(server.base_url, admin) as api:
        assert (await api.post("/messages", json=body)).status_code == 202
