"""主要的活，从外面看：真的进程、真的 Redis 与 SQL、别人的客户端。

整套在两种组合上跑：内嵌 Redis + SQLite（demo 的样子）与 Redis 7 + PostgreSQL（生产的样子）。
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TypedDict

import pytest

from tests.support.eventually import eventually
from tests.support.people import Person, api_of, delivery, device, register, send
from tests.support.server_process import ServerProcess


class Parts(TypedDict, total=False):
    """外部部件的地址；空即内嵌 Redis 与 SQLite。"""

    redis_url: str
    database_url: str


@pytest.fixture(scope="module", params=["embedded-sqlite", "redis7-postgres"])
def parts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Parts]:
    """两个服务器共用的部件；内嵌组合里第二个服务器连第一个的 Redis。"""
    if request.param == "embedded-sqlite":
        yield {}
        return
    redis7 = request.getfixturevalue("redis7_server")
    postgres = request.getfixturevalue("postgres_server")
    database_url = postgres.create_database()
    yield {"redis_url": f"{redis7.url[:-1]}1", "database_url": database_url}
    postgres.drop_database(database_url)


@pytest.fixture(scope="module")
def server(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("first"), **parts) as process:
        yield process


@pytest.fixture
async def alice(server: ServerProcess) -> Person:
    return await register(server.base_url, "alice")


@pytest.fixture
async def bob(server: ServerProcess) -> Person:
    return await register(server.base_url, "bob")


@pytest.fixture
async def carol(server: ServerProcess) -> AsyncIterator[Person]:
    """每个测试之后清空她的信箱，免得前一个测试没确认的影响下一个。"""
    person = await register(server.base_url, "carol")
    yield person
    async with device(server.ws_url(person.user_id), person) as phone:
        for _ in range(phone.welcome["pending"]):
            await phone.ack((await phone.next_message())["message_id"])
        await phone.round_trip()


async def delivered_count(server: ServerProcess, sender: Person, message_id: str) -> int:
    return int((await delivery(server.base_url, sender, message_id))["delivered"])


async def test_every_online_device_has_it_at_once(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    url = server.ws_url(bob.user_id)
    async with device(url, bob) as phone, device(url, bob) as laptop:
        message_id = await send(server.base_url, alice, [bob], title="hello", content="world")
        for one in (phone, laptop):
            frame = await one.next_message()
            assert (frame["message_id"], frame["title"], frame["content"]) == (
                message_id,
                "hello",
                "world",
            )
            assert frame["sender"] == {"id": alice.user_id, "name": "alice"}
        await phone.ack(message_id)
        await phone.round_trip()


async def test_dlv_4_delivered_is_set_by_the_ack_alone(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    async with device(server.ws_url(bob.user_id), bob) as phone:
        message_id = await send(server.base_url, alice, [bob])
        await phone.next_message()
        before = await delivery(server.base_url, alice, message_id)
        assert (before["pending"], before["delivered"]) == (1, 0)
        await phone.ack(message_id)

        async def delivered() -> bool:
            return await delivered_count(server, alice, message_id) == 1

        await eventually(delivered)
        state = (await delivery(server.base_url, alice, message_id))["recipients"][0]
        assert state["user_id"] == bob.user_id
        assert state["sent_at"] <= state["delivered_at"]


async def test_who_was_away_has_it_on_connecting(
    server: ServerProcess, alice: Person, carol: Person
) -> None:
    message_id = await send(server.base_url, alice, [carol])
    async with device(server.ws_url(carol.user_id), carol) as phone:
        assert (await phone.next_message())["message_id"] == message_id


async def test_after_the_ack_it_does_not_come_again(
    server: ServerProcess, alice: Person, carol: Person
) -> None:
    message_id = await send(server.base_url, alice, [carol])
    async with device(server.ws_url(carol.user_id), carol) as phone:
        await phone.next_message()
        await phone.ack(message_id)

        async def delivered() -> bool:
            return await delivered_count(server, alice, message_id) == 1

        await eventually(delivered)

    async def mailbox_empty() -> bool:
        async with device(server.ws_url(carol.user_id), carol) as again:
            return bool(again.welcome["pending"] == 0)

    await eventually(mailbox_empty)


async def test_without_an_ack_it_comes_again_with_the_same_id(
    server: ServerProcess, alice: Person, carol: Person
) -> None:
    message_id = await send(server.base_url, alice, [carol])
    for _ in range(2):
        async with device(server.ws_url(carol.user_id), carol) as phone:
            assert (await phone.next_message())["message_id"] == message_id


async def test_urgent_messages_are_flushed_first(
    server: ServerProcess, alice: Person, carol: Person
) -> None:
    ids = [
        await send(server.base_url, alice, [carol], title=f"p{p}", priority=p) for p in (0, 9, 5, 9)
    ]

    async def all_in_mailbox() -> bool:
        async with device(server.ws_url(carol.user_id), carol) as probe:
            return bool(probe.welcome["pending"] == len(ids))

    await eventually(all_in_mailbox)
    async with device(server.ws_url(carol.user_id), carol) as phone:
        order = [(await phone.next_message())["message_id"] for _ in ids]
    assert order == [ids[1], ids[3], ids[2], ids[0]]


async def test_two_server_processes_deliver_to_a_user_on_both(
    server: ServerProcess,
    parts: Parts,
    alice: Person,
    bob: Person,
    tmp_path: Path,
) -> None:
    shared = parts
    if not parts:
        data = server.directory / "data"
        shared = {
            "redis_url": f"unix://{data}/redis/redis.sock",
            "database_url": f"sqlite:///{data}/meeting-push.db",
        }
    with ServerProcess(tmp_path, **shared) as second:
        async with (
            device(server.ws_url(bob.user_id), bob) as here,
            device(second.ws_url(bob.user_id), bob) as there,
        ):
            message_id = await send(second.base_url, alice, [bob])
            got = await asyncio.gather(here.next_message(), there.next_message())
            assert [frame["message_id"] for frame in got] == [message_id, message_id]
            assert got[0]["seq"] == got[1]["seq"]
            await there.ack(message_id)
            await there.round_trip()


async def test_a_receipt_reaches_the_sender_who_asked(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    async with (
        device(server.ws_url(alice.user_id), alice) as sender,
        device(server.ws_url(bob.user_id), bob) as phone,
    ):
        message_id = await send(server.base_url, alice, [bob], receipt=True)
        await phone.next_message()
        await phone.ack(message_id)

        async def receipt() -> bool:
            return any(f["type"] == "receipt" for f in sender.others)

        await eventually(receipt)
        [frame] = [f for f in sender.others if f["type"] == "receipt"]
        assert (frame["message_id"], frame["recipient_id"], frame["status"]) == (
            message_id,
            bob.user_id,
            "delivered",
        )


async def test_reading_on_one_device_tells_the_other(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    async with device(server.ws_url(bob.user_id), bob) as laptop:
        message_id = await send(server.base_url, alice, [bob])
        await laptop.next_message()
        await laptop.ack(message_id)
        async with api_of(server.base_url, bob) as api:
            before = (await api.get("/messages")).json()["unread_count"]
            answer = await api.post("/messages/read", json={"message_ids": [message_id]})
        assert answer.json() == {"unread_count": before - 1}

        async def read_sync() -> bool:
            return any(f["type"] == "read_sync" for f in laptop.others)

        await eventually(read_sync)
        [frame] = [f for f in laptop.others if f["type"] == "read_sync"]
        assert (frame["message_ids"], frame["unread_count"]) == ([message_id], before - 1)


async def test_an_idempotency_key_makes_a_retry_harmless(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    body = {"recipient_ids": [bob.user_id], "title": "once", "content": ""}
    async with api_of(server.base_url, alice) as api:
        answers = [
            await api.post("/messages", json=body, headers={"idempotency-key": "key-1"})
            for _ in range(2)
        ]
        other = await api.post(
            "/messages", json={**body, "title": "other"}, headers={"idempotency-key": "key-1"}
        )
    assert answers[0].json() == answers[1].json()
    assert other.status_code == 409
    assert other.json()["error"]["code"] == "idempotency_conflict"


async def test_a_batch_is_stored_in_one_transaction(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    good = {"recipient_ids": [bob.user_id], "title": "batch", "content": ""}
    bad = {**good, "recipient_ids": [10**9]}
    async with api_of(server.base_url, alice) as api:
        refused = await api.post("/messages/batch", json={"messages": [good, bad]})
        accepted = await api.post("/messages/batch", json={"messages": [good, good]})
    async with api_of(server.base_url, bob) as api:
        titles = [m["title"] for m in (await api.get("/messages")).json()["items"]]
    assert refused.status_code == 422
    assert len(accepted.json()["results"]) == 2
    assert titles.count("batch") == 2


async def test_the_inbox_pages_by_cursor_newest_first(
    server: ServerProcess, alice: Person, carol: Person
) -> None:
    sent = [await send(server.base_url, alice, [carol], title=f"page {i}") for i in range(5)]
    got: list[str] = []
    cursor: str | None = None
    async with api_of(server.base_url, carol) as api:
        while len(got) < len(sent):
            query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = (await api.get("/messages", params=query)).json()
            got += [m["message_id"] for m in page["items"]]
            cursor = page["next_cursor"]
    assert got[: len(sent)] == sent[::-1]


async def test_a_scheduled_message_arrives_when_it_is_due(
    server: ServerProcess, alice: Person
) -> None:
    dave = await register(server.base_url, "dave")
    async with device(server.ws_url(dave.user_id), dave) as phone:
        now = phone.welcome["server_time"]
        message_id = await send(server.base_url, alice, [dave], deliver_at=now + 1_000)
        await phone.round_trip()
        assert not phone.has_message()
        assert (await phone.next_message())["message_id"] == message_id
