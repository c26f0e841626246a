"""``GET /logs/events``：各种日志事件说了几次；只给管理员，没有一句日志的文字。"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.eventually import eventually
from tests.support.people import Person
from tests.support.server_process import ServerProcess

PATH = "/api/v1/logs/events"


async def ask(server: ServerProcess, person: Person, query: str = "") -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        headers = {"authorization": f"Bearer {person.token}"}
        return await client.get(f"{PATH}{query}", headers=headers)


async def test_a_refused_token_is_counted_within_seconds(
    server: ServerProcess, admin: Person
) -> None:
    wrong = Person(1, "nobody", "nonsense")
    assert (await ask(server, wrong)).status_code == 401

    async def counted() -> dict[str, Any] | None:
        answer = (await ask(server, admin, "?window_s=600&level=INFO")).json()
        assert answer["step_s"] == 60
        assert all(len(item["by_time"]) == 10 for item in answer["items"])
        assert {item["level"] for item in answer["items"]} <= {"INFO"}
        wanted = ("requests_refused", "invalid_token")
        found = [one for one in answer["items"] if (one["event"], one["code"]) == wanted]
        return found[0] if found else None

    item = await eventually(counted, timeout=20)
    assert item is not None
    assert item["count"] == sum(item["by_time"]) >= 1
    assert set(item) == {"event", "level", "code", "count", "by_time"}


async def test_who_is_no_administrator_sees_nothing(server: ServerProcess, alice: Person) -> None:
    assert (await ask(server, alice)).status_code == 403


@pytest.mark.parametrize(
    "query", ["?window_s=59", "?window_s=604801", "?window_s=x", "?level=DEBUG", "?level=error"]
)
async def test_what_can_not_be_asked_is_422(
    query: str, server: ServerProcess, admin: Person
) -> None:
    assert (await ask(server, admin, query)).status_code == 422
