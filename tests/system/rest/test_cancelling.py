"""撤回预约的消息：到时之前，只有发的人。"""

from __future__ import annotations

import pytest

from meeting_push.clock import now_ms
from tests.support.people import Person, api_of, delivery, send
from tests.support.server_process import ServerProcess

HOUR_MS = 3_600_000


async def cancel(server: ServerProcess, who: Person, message_id: str) -> tuple[int, str | None]:
    async with api_of(server.base_url, who) as api:
        answer = await api.delete(f"/messages/{message_id}")
    code = None if answer.status_code == 204 else answer.json()["error"]["code"]
    return answer.status_code, code


async def test_a_cancelled_message_failed_with_its_reason(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    message_id = await send(server.base_url, alice, [bob], deliver_at=now_ms() + HOUR_MS)
    assert await cancel(server, alice, message_id) == (204, None)
    report = await delivery(server.base_url, alice, message_id)
    assert (report["failed"], report["pending"]) == (1, 0)
    assert report["recipients"][0]["failure_reason"] == "cancelled"


async def test_cancelling_twice_is_harmless(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    message_id = await send(server.base_url, alice, [bob], deliver_at=now_ms() + HOUR_MS)
    answers = [await cancel(server, alice, message_id) for _ in range(2)]
    assert answers == [(204, None)] * 2


@pytest.mark.parametrize("ahead_ms", [None, -HOUR_MS, 100], ids=["now", "past", "about to be"])
async def test_what_is_due_is_withdrawn_instead(
    server: ServerProcess, alice: Person, bob: Person, ahead_ms: int | None
) -> None:
    due = None if ahead_ms is None else now_ms() + ahead_ms
    message_id = await send(server.base_url, alice, [bob], deliver_at=due)
    assert await cancel(server, alice, message_id) == (204, None)
    report = await delivery(server.base_url, alice, message_id)
    assert (report["withdrawn"], report["pending"], report["failed"]) == (1, 0, 0)


async def test_sec_1_only_the_sender_cancels(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    message_id = await send(server.base_url, alice, [bob], deliver_at=now_ms() + HOUR_MS)
    assert await cancel(server, bob, message_id) == (404, "not_found")
