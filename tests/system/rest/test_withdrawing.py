"""撤回送了的：没有确认的从此是 withdrawn，有它的设备得到一帧耐久的 ``withdrawn``，到处只剩墓碑。"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from meeting_push import PushClient
from tests.support.accounts import resident
from tests.support.eventually import eventually
from tests.support.people import Device, Person, api_of, delivery, device, send
from tests.support.sdk import QUICK
from tests.support.server_process import ServerProcess

from .test_cancelling import cancel

SECRET = "the secret of the text"


@pytest.fixture
async def ann(server: ServerProcess) -> Person:
    return await resident(server.database_url, f"ann-{uuid4().hex[:8]}")


@pytest.fixture
async def ben(server: ServerProcess) -> Person:
    return await resident(server.database_url, f"ben-{uuid4().hex[:8]}")


async def written(server: ServerProcess, ann: Person, *to: Person) -> str:
    return await send(server.base_url, ann, list(to), title=SECRET, content=SECRET, data={"a": 1})


async def counted(server: ServerProcess, ann: Person, message_id: str, **wanted: int) -> None:
    async def so() -> bool:
        report = await delivery(server.base_url, ann, message_id)
        return {name: report[name] for name in wanted} == wanted

    await eventually(so)


async def told(phone: Device) -> dict[str, Any]:
    """撤回的那一帧；它总是独自来的，实时与补发一样。"""
    [frame] = await eventually(lambda: [f for f in phone.others if f["type"] == "withdrawn"])
    return dict(frame)


async def inbox(server: ServerProcess, who: Person) -> dict[str, Any]:
    async with api_of(server.base_url, who) as api:
        answer = await api.get("/messages")
    return dict(answer.json())


async def test_an_online_device_is_told_with_a_position_of_its_own(
    server: ServerProcess, ann: Person, ben: Person
) -> None:
    async with device(server.ws_url(ben.user_id), ben) as phone:
        message_id = await written(server, ann, ben)
        message = await phone.next_message()
        assert await cancel(server, ann, message_id) == (204, None)
        frame = await told(phone)
    assert frame["message_id"] == message_id
    assert frame["seq"] == message["seq"] + 1
    assert (frame["title"], frame["content"], frame["data"]) == ("", "", None)
    assert frame["withdrawn_at"] >= message["timestamp"]
    await counted(server, ann, message_id, pending=0, delivered=0, withdrawn=1, total=1)


async def test_who_was_away_gets_the_tombstone_and_never_the_text(
    server: ServerProcess, ann: Person, ben: Person
) -> None:
    message_id = await written(server, ann, ben)
    assert await cancel(server, ann, message_id) == (204, None)
    async with device(server.ws_url(ben.user_id), ben) as phone:
        frame = await told(phone)
        assert frame["message_id"] == message_id
        assert SECRET not in str(frame)
        await phone.ack(message_id)
        await phone.round_trip()

        async def empty() -> bool:
            async with api_of(server.base_url, ben) as api:
                answer = await api.get(f"/users/{ben.user_id}/offline-messages/count")
            return bool(answer.json()["count"] == 0)

        await eventually(empty)
    await counted(server, ann, message_id, delivered=0, withdrawn=1)


async def test_a_late_ack_does_not_bring_it_back(
    server: ServerProcess, ann: Person, ben: Person
) -> None:
    async with device(server.ws_url(ben.user_id), ben) as phone:
        message_id = await written(server, ann, ben)
        await phone.next_message()
        await cancel(server, ann, message_id)
        await told(phone)
        await phone.ack(message_id)
        await phone.round_trip()
        later = await written(server, ann, ben)
        await phone.next_message()
        await phone.ack(later)
    await counted(server, ann, later, delivered=1)
    await counted(server, ann, message_id, delivered=0, withdrawn=1)


async def test_who_had_it_before_stays_delivered_and_is_told(
    server: ServerProcess, ann: Person, ben: Person
) -> None:
    async with device(server.ws_url(ben.user_id), ben) as phone:
        message_id = await written(server, ann, ben)
        seen = await phone.next_message()
        await phone.ack(message_id)
        await counted(server, ann, message_id, delivered=1)
    epoch = phone.welcome["epoch"]
    assert await cancel(server, ann, message_id) == (204, None)
    await counted(server, ann, message_id, delivered=1, withdrawn=0)
    async with device(server.ws_url(ben.user_id, epoch=epoch, last_seq=seen["seq"]), ben) as phone:
        frame = await told(phone)
        assert phone.welcome["resumed"]
    assert frame["message_id"] == message_id


async def test_a_device_that_resumes_from_before_it_hears_a_gap_and_the_tombstone(
    server: ServerProcess, ann: Person, ben: Person
) -> None:
    async with device(server.ws_url(ben.user_id), ben) as phone:
        epoch = phone.welcome["epoch"]
    first = await written(server, ann, ben)
    second = await written(server, ann, ben)
    await cancel(server, ann, first)
    async with device(server.ws_url(ben.user_id, epoch=epoch, last_seq=0), ben) as phone:
        frames = [await phone.next_message(), await told(phone)]
        await phone.round_trip()
    assert phone.welcome["resumed"]
    assert [(f["type"], f["seq"], f["message_id"]) for f in frames] == [
        ("new_message", 2, second),
        ("withdrawn", 3, first),
    ]
    [gap] = [f for f in phone.others if f["type"] == "gap"]
    assert (gap["from_seq"], gap["to_seq"]) == (1, 1)
    assert not [f for f in phone.others if f["type"] == "resync"]


async def test_the_inbox_shows_a_tombstone_that_is_not_unread(
    server: ServerProcess, ann: Person, ben: Person
) -> None:
    message_id = await written(server, ann, ben)
    await cancel(server, ann, message_id)
    page = await inbox(server, ben)
    [item] = page["items"]
    assert (item["message_id"], item["status"]) == (message_id, "withdrawn")
    assert (item["title"], item["content"], item["data"]) == ("", "", None)
    assert item["withdrawn_at"] > 0
    assert page["unread_count"] == 0
    async with api_of(server.base_url, ann) as api:
        own = (await api.get(f"/messages/{message_id}")).json()
    assert (own["withdrawn_at"], own["content"]) == (item["withdrawn_at"], "")


async def test_withdrawing_twice_is_harmless_and_only_the_sender_may(
    server: ServerProcess, ann: Person, ben: Person, admin: Person
) -> None:
    message_id = await written(server, ann, ben)
    assert await cancel(server, ben, message_id) == (404, "not_found")
    assert await cancel(server, ann, message_id) == (204, None)
    assert await cancel(server, ann, message_id) == (204, None)
    assert await cancel(server, admin, message_id) == (204, None)
    async with device(server.ws_url(ben.user_id), ben) as phone:
        await told(phone)
        await phone.round_trip()
        await told(phone)
        assert not phone.has_message()


async def test_what_was_sent_to_everybody_can_not_be_withdrawn(
    server: ServerProcess, admin: Person
) -> None:
    async with api_of(server.base_url, admin) as api:
        body = {"title": "t", "content": "c"}
        message_id = (await api.post("/messages/broadcast", json=body)).json()["message_id"]
    assert await cancel(server, admin, message_id) == (409, "already_due")


async def test_the_sdk_is_told_acks_it_and_does_not_get_it_again(
    server: ServerProcess, ann: Person, ben: Person
) -> None:
    told: list[str] = []
    message_id = await written(server, ann, ben)
    await cancel(server, ann, message_id)
    client = PushClient(server.base_url, ben.token, options=QUICK)
    client.on("withdrawn", lambda frame: told.append(frame.message_id))
    async with client:
        await eventually(lambda: told == [message_id])
        later = await written(server, ann, ben)
        assert (await anext(client)).message_id == later

        async def empty() -> bool:
            async with api_of(server.base_url, ben) as api:
                answer = await api.get(f"/users/{ben.user_id}/offline-messages")
            return message_id not in str(answer.json())

        await eventually(empty)


async def test_every_recipient_is_told(server: ServerProcess, ann: Person) -> None:
    people = [await resident(server.database_url, f"one-{uuid4().hex[:8]}") for _ in range(3)]
    message_id = await written(server, ann, *people)
    await cancel(server, ann, message_id)
    await counted(server, ann, message_id, pending=0, withdrawn=3, total=3)
    for one in people:
        async with device(server.ws_url(one.user_id), one) as phone:
            assert (await told(phone))["message_id"] == message_id
