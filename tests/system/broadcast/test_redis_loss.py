"""Redis 丢了数据（DLV-1）：日志与游标一起没了，没送到的照样送到，送到过的尽量不再送。"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.support.eventually import eventually
from tests.support.people import Device, Person, device, register, send
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

from .conftest import QUICK, admin, broadcast, delivery, visit

both_edges = pytest.mark.parametrize("edge", ["native", "asgi"])


@pytest.fixture
def edge() -> str:
    return "native"


@pytest.fixture
def server(edge: str, tmp_path: Path, private_redis_server: RedisServer) -> Iterator[ServerProcess]:
    settings = {**QUICK, "reconcile_interval_s": 0.1, "edge": edge, "drain_window_s": 0}
    url = private_redis_server.url
    with ServerProcess(tmp_path, redis_url=url, settings=settings) as process:
        yield process


@pytest.fixture
def client(private_redis_server: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(private_redis_server.url) as client:
        yield client


@pytest.fixture
async def bob(server: ServerProcess) -> Person:
    """连过一次的用户。"""
    person = await register(server.base_url, "bob")
    await visit(server, person)
    return person


async def lose_everything(server: ServerProcess, client: Redis) -> None:
    client.flushall()
    await recovered(server)


async def recovered(server: ServerProcess) -> None:
    """等到对账做完。"""
    await eventually(lambda: "redrive_finished" in server.output, 20)


async def logged(client: Redis, count: int) -> None:
    await eventually(lambda: client.xlen("broadcast_log") == count, 20)


async def acked(server: ServerProcess, phone: Device, message_id: str) -> None:
    before = (await delivery(server, message_id))["delivered"]
    await phone.ack(message_id)

    async def recorded() -> bool:
        return bool((await delivery(server, message_id))["delivered"] == before + 1)

    await eventually(recorded)


async def received(server: ServerProcess, person: Person) -> list[str]:
    """连上，收下积着的一切（之后的一条私信收尾），确认。"""
    ids = []
    async with device(server.ws_url(person.user_id), person) as phone:
        marker = await send(server.base_url, admin(), [person])
        while (frame := await phone.next_message(20))["message_id"] != marker:
            ids.append(frame["message_id"])
        for message_id in (*ids, marker):
            await acked(server, phone, message_id)
    return ids


@both_edges
async def test_dlv_1_whoever_was_away_when_redis_lost_its_data_has_it_once(
    server: ServerProcess, bob: Person, client: Redis
) -> None:
    ids = [await broadcast(server, title=str(n)) for n in range(2)]
    await logged(client, 2)
    await lose_everything(server, client)
    assert await received(server, bob) == ids
    assert await received(server, bob) == []


async def test_dlv_1_back_before_anybody_noticed_the_loss_he_has_it_once(
    server: ServerProcess, bob: Person, client: Redis
) -> None:
    message_id = await broadcast(server)
    await logged(client, 1)
    client.flushall()
    async with device(server.ws_url(bob.user_id), bob) as phone:
        assert (await phone.next_message())["message_id"] == message_id
        await logged(client, 1)
        later = await broadcast(server)
        assert (await phone.next_message())["message_id"] == later
        assert not phone.has_message()


@both_edges
async def test_dlv_1_who_is_online_is_not_cut_off_and_has_nothing_twice(
    server: ServerProcess, bob: Person, client: Redis
) -> None:
    async with device(server.ws_url(bob.user_id), bob) as phone:
        first, second = await broadcast(server), await broadcast(server)
        for message_id in (first, second):
            assert (await phone.next_message())["message_id"] == message_id
        await acked(server, phone, first)
        await lose_everything(server, client)
        await eventually(lambda: [f for f in phone.others if f["type"] == "resync"], 20)
        later = await broadcast(server)
        assert (await phone.next_message())["message_id"] == later
        await acked(server, phone, later)
        await phone.round_trip()
        assert not phone.has_message()
    assert await received(server, bob) == [second]
    assert "loop_died" not in server.output


async def test_what_was_acked_before_the_loss_does_not_come_again(
    server: ServerProcess, bob: Person, client: Redis
) -> None:
    ids = [await broadcast(server, title=str(n)) for n in range(3)]
    async with device(server.ws_url(bob.user_id), bob) as phone:
        for _ in ids:
            await phone.next_message()
        await acked(server, phone, ids[0])
        await acked(server, phone, ids[2])
    await lose_everything(server, client)
    assert await received(server, bob) == [ids[1]]


async def test_dlv_1_an_empty_redis_under_a_restarted_server(
    server: ServerProcess, bob: Person, client: Redis
) -> None:
    message_id = await broadcast(server)
    await logged(client, 1)
    server.kill()
    client.flushall()
    server.start()
    await recovered(server)
    assert await received(server, bob) == [message_id]
