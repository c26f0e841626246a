"""操作者与用户的工具：失败清单、死信、信箱、统计、队列。"""

from __future__ import annotations

import pytest

from tests.support.eventually import eventually
from tests.support.house import House
from tests.support.people import Person, api_of, device, send
from tests.support.server_process import ServerProcess

from .looking import dead_letters, failures, get, mailbox_size, read_attempts, state_of, until

pytestmark = pytest.mark.timeout(240)


async def fail_one(server: ServerProcess, alice: Person, bob: Person) -> str:
    """一条始终没有确认的消息；返回时它已 failed，设备已离开。"""
    async with device(server.ws_url(bob.user_id), bob) as phone:
        message_id = await send(server.base_url, alice, [bob])
        await read_attempts(phone, 4)
        await until(server, alice, message_id, "failed")
    return message_id


async def test_a_dead_letter_is_listed_requeued_once_and_gone(
    house: House, server: ServerProcess, admin: Person, alice: Person, bob: Person
) -> None:
    message_id = await fail_one(server, alice, bob)
    page = await get(server, admin, "/queues/dead-letter", limit=200)
    [letter] = [each for each in page["items"] if each["message_id"] == message_id]
    assert (letter["reason"], letter["recipient_ids"]) == ("no_ack", [bob.user_id])
    async with api_of(server.base_url, admin) as api:
        answers = [
            (await api.post("/queues/dead-letter/requeue", json={"ids": [letter["id"]]})).json()
            for _ in range(2)
        ]
    assert answers == [
        {"requeued": [letter["id"]], "skipped": []},
        {"requeued": [], "skipped": [letter["id"]]},
    ]
    assert dead_letters(house, message_id) == []
    async with device(server.ws_url(bob.user_id), bob) as phone:
        frame = await phone.next_message()
        assert (frame["message_id"], frame["attempt"]) == (message_id, 0)
        await phone.ack(message_id)
        await until(server, alice, message_id, "delivered")


async def test_an_unreadable_dead_letter_is_shown_and_skipped(
    house: House, server: ServerProcess, admin: Person
) -> None:
    fields = {"v": "1", "entry": "not json", "reason": "malformed", "queue": "q"}
    letter_id = house.redis.xadd(house.queue_keys.dead_letter, fields)
    page = await get(server, admin, "/queues/dead-letter", limit=200)
    [letter] = [each for each in page["items"] if each["id"] == letter_id]
    assert (letter["message_id"], letter["reason"]) == (None, "malformed")
    async with api_of(server.base_url, admin) as api:
        answer = await api.post("/queues/dead-letter/requeue", json={"ids": [letter_id]})
    assert answer.json() == {"requeued": [], "skipped": [letter_id]}


async def test_failures_page_newest_first(
    server: ServerProcess, admin: Person, alice: Person, bob: Person
) -> None:
    async with device(server.ws_url(bob.user_id), bob) as phone:
        sent = [await send(server.base_url, alice, [bob]) for _ in range(3)]
        await read_attempts(phone, len(sent))
        for message_id in sent:
            await until(server, alice, message_id, "failed")
    found: list[tuple[int, str]] = []
    query: dict[str, object] = {"limit": 2}
    while True:
        page = await get(server, admin, "/deliveries/failures", **query)
        found += [(item["failed_at"], item["message_id"]) for item in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert found == sorted(found, reverse=True)
    assert {message_id for _, message_id in found} >= set(sent)


async def test_the_mailbox_is_listed_counted_and_cleared_as_failed(
    house: House, server: ServerProcess, alice: Person, bob: Person
) -> None:
    calm = await send(server.base_url, alice, [bob], title="calm")
    urgent = await send(server.base_url, alice, [bob], title="urgent", priority=9)
    await eventually(lambda: mailbox_size(house, bob) == 2)
    path = f"/users/{bob.user_id}/offline-messages"
    listed = await get(server, bob, path)
    assert [(m["message_id"], m["title"], m["priority"]) for m in listed["items"]] == [
        (urgent, "urgent", 9),
        (calm, "calm", 0),
    ]
    assert await get(server, bob, f"{path}/count") == {"count": 2}
    async with api_of(server.base_url, bob) as api:
        assert (await api.delete(path)).json() == {"cleared": 2}
        assert (await api.delete(path)).json() == {"cleared": 0}
    assert mailbox_size(house, bob) == 0
    for message_id in (calm, urgent):
        state = await state_of(server, alice, message_id)
        assert (state["status"], state["failure_reason"]) == ("failed", "cleared")


async def test_the_statistics_of_a_user_tell_what_became_of_his_messages(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    await fail_one(server, alice, bob)
    async with device(server.ws_url(bob.user_id), bob) as phone:
        message_id = await send(server.base_url, alice, [bob], message_type="notification")
        await phone.next_message()
        await phone.ack(message_id)
        await until(server, alice, message_id, "delivered")
    found = await get(server, bob, f"/users/{bob.user_id}/delivery-statistics", window_s=3600)
    assert (found["sent"], found["delivered"], found["failed"], found["rate"]) == (2, 1, 1, 0.5)
    assert (found["retry_rate"], found["failure_reasons"]) == (0.5, {"no_ack": 1})
    assert found["by_type"]["notification"]["rate"] == 1.0
    assert found["mean_ack_ms"] == found["p95_ack_ms"] >= 0


async def test_the_queues_are_listed(house: House, server: ServerProcess, admin: Person) -> None:
    names = [one["name"] for one in (await get(server, admin, "/queues"))["items"]]
    keys = house.queue_keys
    assert {keys.delivery, keys.dead_letter, keys.delayed} <= set(names)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/deliveries/failures"),
        ("POST", f"/deliveries/failures/{'0' * 26}/1/requeue"),
        ("GET", "/queues"),
        ("GET", "/deliveries/failures/causes"),
        ("GET", "/queues/dead-letter"),
        ("POST", "/queues/dead-letter/requeue"),
        ("GET", "/users/999/delivery-statistics"),
        ("GET", "/users/999/offline-messages"),
        ("GET", "/users/999/offline-messages/count"),
        ("DELETE", "/users/999/offline-messages"),
    ],
)
async def test_others_may_not(server: ServerProcess, bob: Person, method: str, path: str) -> None:
    async with api_of(server.base_url, bob) as api:
        answer = await api.request(method, path, json={"ids": ["1-1"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


async def test_requeueing_what_did_not_fail_is_404(
    server: ServerProcess, admin: Person, alice: Person, bob: Person
) -> None:
    message_id = await send(server.base_url, alice, [bob])
    async with api_of(server.base_url, admin) as api:
        answer = await api.post(f"/deliveries/failures/{message_id}/{bob.user_id}/requeue")
    assert answer.status_code == 404
    assert await failures(server, admin, bob) == []
