"""广播，从外面看：两个节点，外来的客户端。"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack

import pytest
from redis import Redis

from meeting_push.client import PushClient
from tests.support.eventually import eventually
from tests.support.house import House
from tests.support.people import Device, Person, api_of, device, send
from tests.support.server_process import ServerProcess

from .conftest import Newcomer, Nodes, admin, broadcast, delivery


async def delivered(server: ServerProcess, message_id: str, count: int) -> None:
    async def recorded() -> bool:
        return bool((await delivery(server, message_id))["delivered"] == count)

    await eventually(recorded)


async def caught_up(phone: Device, server: ServerProcess, person: Person) -> None:
    """补发里没有别的了：此后发的一条私信就是他的下一条。"""
    marker = await send(server.base_url, admin(), [person])
    assert (await phone.next_message())["message_id"] == marker
    await phone.ack(marker)


async def test_everybody_online_has_it_at_once_on_every_node(
    nodes: Nodes, newcomer: Newcomer
) -> None:
    people = [await newcomer() for _ in range(3)]
    async with AsyncExitStack() as stack:
        phones = [
            await stack.enter_async_context(device(node.ws_url(person.user_id), person))
            for node in nodes
            for person in people
        ]
        message_id = await broadcast(nodes[0])
        frames = [await phone.next_message() for phone in phones]
    assert {frame["message_id"] for frame in frames} == {message_id}


async def test_a_broadcast_has_its_own_number_and_no_seq(nodes: Nodes, bob: Person) -> None:
    async with device(nodes[0].ws_url(bob.user_id), bob) as phone:
        await broadcast(nodes[0], title="hello", data={"n": 1}, priority=3)
        frame = await phone.next_message()
    assert "seq" not in frame
    assert frame["broadcast_id"] > frame["broadcast_prev"] >= 0
    assert (frame["title"], frame["data"], frame["priority"]) == ("hello", {"n": 1}, 3)


async def test_whoever_was_away_has_it_on_the_next_connect_once(nodes: Nodes, bob: Person) -> None:
    message_id = await broadcast(nodes[0])
    async with device(nodes[1].ws_url(bob.user_id), bob) as phone:
        assert (await phone.next_message())["message_id"] == message_id
        await phone.ack(message_id)
        await delivered(nodes[0], message_id, 1)
    async with device(nodes[0].ws_url(bob.user_id), bob) as phone:
        await caught_up(phone, nodes[0], bob)


async def test_dlv_4_what_was_not_acked_comes_again(nodes: Nodes, bob: Person) -> None:
    message_id = await broadcast(nodes[0])
    for _ in range(2):
        async with device(nodes[0].ws_url(bob.user_id), bob) as phone:
            assert (await phone.next_message())["message_id"] == message_id
    assert (await delivery(nodes[0], message_id))["delivered"] == 0


async def test_acks_need_not_come_in_order(nodes: Nodes, bob: Person) -> None:
    ids = [await broadcast(nodes[0], title=str(n)) for n in range(3)]
    async with device(nodes[0].ws_url(bob.user_id), bob) as phone:
        for _ in ids:
            await phone.next_message()
        await phone.ack(ids[0], ids[2])
        await delivered(nodes[0], ids[2], 1)
    async with device(nodes[1].ws_url(bob.user_id), bob) as phone:
        assert (await phone.next_message())["message_id"] == ids[1]
        await phone.ack(ids[1])
        await delivered(nodes[0], ids[1], 1)
        await caught_up(phone, nodes[0], bob)


async def test_a_new_user_starts_at_the_end_of_the_log(nodes: Nodes, newcomer: Newcomer) -> None:
    carol, dave = await newcomer(), await newcomer()
    async with device(nodes[0].ws_url(dave.user_id), dave) as phone:
        await broadcast(nodes[0])
        await phone.next_message()
    async with device(nodes[0].ws_url(carol.user_id), carol) as phone:
        await caught_up(phone, nodes[0], carol)


async def test_urgent_broadcasts_come_before_ordinary_mail(nodes: Nodes, bob: Person) -> None:
    await broadcast(nodes[0], title="plain")
    await send(nodes[0].base_url, admin(), [bob], title="mail")
    await send(nodes[0].base_url, admin(), [bob], title="urgent mail", priority=9)
    await broadcast(nodes[0], title="urgent", priority=7)
    for _ in range(2):  # 第一次可能还有在路上的；没有确认，第二次都积着
        async with device(nodes[1].ws_url(bob.user_id), bob) as phone:
            titles = [(await phone.next_message())["title"] for _ in range(4)]
    assert titles == ["urgent mail", "urgent", "mail", "plain"]


async def test_an_expired_broadcast_is_not_delivered(nodes: Nodes, bob: Person) -> None:
    await broadcast(nodes[0], expires_in_s=1)
    kept = await broadcast(nodes[0], title="kept")
    with pytest.raises(AssertionError):  # 等它过期：没有别的事件可等
        await eventually(lambda: False, 1.1)
    async with device(nodes[0].ws_url(bob.user_id), bob) as phone:
        assert (await phone.next_message())["message_id"] == kept


async def test_only_administrators_broadcast(nodes: Nodes, bob: Person) -> None:
    async with api_of(nodes[0].base_url, bob) as api:
        answer = await api.post("/messages/broadcast", json={"title": "t", "content": "c"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "body", [{"title": ""}, {"title": "t", "content": "c", "recipient_ids": [1]}, {"priority": 10}]
)
async def test_a_bad_broadcast_is_refused(nodes: Nodes, body: dict[str, object]) -> None:
    async with api_of(nodes[0].base_url, admin()) as api:
        answer = await api.post("/messages/broadcast", json={"title": "t", "content": "c"} | body)
    assert answer.status_code == 422


async def test_an_idempotency_key_makes_a_retry_harmless(nodes: Nodes, bob: Person) -> None:
    key = {"Idempotency-Key": f"b-{bob.user_id}"}
    body = {"title": "t", "content": "c"}
    async with api_of(nodes[0].base_url, admin()) as api:
        answers = [await api.post("/messages/broadcast", json=body, headers=key) for _ in range(2)]
        other = await api.post("/messages/broadcast", json=body | {"title": "x"}, headers=key)
    assert answers[0].json() == answers[1].json()
    assert other.json()["error"]["code"] == "idempotency_conflict"


async def test_the_delivery_of_a_broadcast_counts_acks_and_lists_nobody(
    nodes: Nodes, bob: Person
) -> None:
    message_id = await broadcast(nodes[0])
    async with device(nodes[0].ws_url(bob.user_id), bob) as phone:
        await phone.next_message()
        await phone.ack(message_id)
        await phone.ack(message_id)
        await delivered(nodes[1], message_id, 1)
    report = await delivery(nodes[1], message_id)
    assert (report["total"], report["pending"], report["recipients"]) == (None, None, [])


async def test_an_ack_of_a_broadcast_is_answered_as_accepted(nodes: Nodes, bob: Person) -> None:
    message_id = await broadcast(nodes[0])
    async with device(nodes[0].ws_url(bob.user_id), bob) as phone:
        await phone.next_message()
        ids = [message_id, "0" * 26]
        await phone.socket.send(json.dumps({"type": "ack", "message_ids": ids, "request_id": 1}))
        result = await eventually(lambda: [f for f in phone.others if f["type"] == "ack_result"])
    assert (result[0]["accepted"], result[0]["unknown"]) == (1, ["0" * 26])


async def test_what_others_publish_on_the_channel_stays_transient(
    nodes: Nodes, bob: Person, house: House
) -> None:
    foreign = {"type": "new_message", "message_id": "m-1", "title": "t", "content": "c"}
    async with device(nodes[0].ws_url(bob.user_id), bob) as phone:
        with Redis.from_url(house.redis_server.url) as redis:
            redis.publish("broadcast:all", json.dumps(foreign))
        assert await phone.next_message() == foreign
    async with device(nodes[0].ws_url(bob.user_id), bob) as phone:
        await caught_up(phone, nodes[0], bob)


async def test_a_scheduled_broadcast_waits_for_its_time(nodes: Nodes, bob: Person) -> None:
    async with device(nodes[0].ws_url(bob.user_id), bob) as phone:
        due = phone.welcome["server_time"] + 1_000
        later = await broadcast(nodes[0], title="later", deliver_at=due)
        now = await broadcast(nodes[0], title="now")
        arrived = [(await phone.next_message())["message_id"] for _ in range(2)]
    assert arrived == [now, later]


async def test_the_sdk_acks_what_it_handed_over(nodes: Nodes, bob: Person) -> None:
    message_id = await broadcast(nodes[0])
    async with PushClient(nodes[0].base_url, bob.token) as client:
        message = await anext(client)
        message.ack()
        await delivered(nodes[0], message_id, 1)
    assert (message.message_id, message.seq) == (message_id, None)


async def test_a_node_that_lost_its_subscription_catches_up(
    nodes: Nodes, bob: Person, house: House
) -> None:
    async with device(nodes[0].ws_url(bob.user_id), bob) as phone:
        with Redis.from_url(house.redis_server.url) as redis:
            redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        ids = [await broadcast(nodes[1], title=str(n)) for n in range(3)]
        assert [(await phone.next_message())["message_id"] for _ in ids] == ids
