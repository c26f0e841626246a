"""DLV-1：在每一步之间 ``kill -9``，已接受的消息都会到。

各步之间用真实的角色切开，不在产品里埋崩溃点：没有 Redis 时提交停在入队之前，只有 api 角色时
停在取出之前（不直接投递），别的消费者取走不还停在投递之前，没有网关时停在推送之前。
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from redis import Redis

from tests.support.eventually import eventually
from tests.support.house import House
from tests.support.people import Person, api_of, delivery, device, register, send
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

QUICK = {"claim_idle_ms": 500, "relay_grace_s": 0.5, "relay_interval_s": 0.2}


@pytest.fixture
def house(tmp_path: Path, private_redis_server: RedisServer) -> Iterator[House]:
    """先后起落的服务器。"""
    with House(tmp_path, private_redis_server, shared=QUICK) as house:
        yield house


async def people(server: ServerProcess) -> tuple[Person, Person]:
    return await register(server.base_url, "alice"), await register(server.base_url, "bob")


async def arrives(server: ServerProcess, bob: Person, message_id: str) -> None:
    async with device(server.ws_url(bob.user_id), bob) as phone:
        assert (await phone.next_message())["message_id"] == message_id


async def sent_without_redis(
    house: House, server: ServerProcess, alice: Person, bob: Person
) -> str:
    """Redis 不在时发送，然后它回来。"""
    house.redis_server.kill()
    message_id = await send(server.base_url, alice, [bob])
    house.redis_server.start()
    return message_id


async def test_dlv_1_killed_after_the_commit_before_the_enqueue(house: House) -> None:
    first = house.start()
    alice, bob = await people(first)
    house.redis_server.kill()
    message_id = await send(first.base_url, alice, [bob])
    first.kill()
    house.redis_server.start()
    await arrives(house.start(), bob, message_id)


async def test_dlv_1_killed_after_the_enqueue_before_the_take(house: House) -> None:
    first = house.start("api", direct_recipients=0)
    alice, bob = await people(first)
    message_id = await send(first.base_url, alice, [bob])
    with Redis.from_url(house.redis_server.url) as redis:
        await eventually(lambda: redis.xlen("message_delivery_queue") == 1)
    first.kill()
    await arrives(house.start(), bob, message_id)


async def test_dlv_1_a_worker_dies_with_the_entry_in_hand(house: House) -> None:
    first = house.start("api", direct_recipients=0)
    alice, bob = await people(first)
    message_id = await send(first.base_url, alice, [bob])
    with Redis.from_url(house.redis_server.url) as redis:
        await eventually(lambda: redis.xlen("message_delivery_queue") == 1)
        redis.xgroup_create("message_delivery_queue", "delivery_workers", "0")
        taken = redis.xreadgroup("delivery_workers", "dead", {"message_delivery_queue": ">"})
        assert len(taken) == 1
    first.kill()
    await arrives(house.start(), bob, message_id)


async def test_dlv_1_killed_after_the_delivery_before_the_push(house: House) -> None:
    api, worker = house.start("api"), house.start("worker")
    alice, bob = await people(api)
    message_id = await send(api.base_url, alice, [bob])
    with Redis.from_url(house.redis_server.url) as redis:
        await eventually(lambda: redis.zcard(f"offline_messages:{{{bob.user_id}}}") == 1)
    api.kill()
    worker.kill()
    await arrives(house.start("gateway"), bob, message_id)


async def test_dlv_1_killed_after_the_direct_delivery_before_the_mark(house: House) -> None:
    """收下它的进程自己投递了，没有记下就死了：扫描再送一遍，还是那一条、那个 seq。"""
    first = house.start("api")
    alice, bob = await people(first)
    message_id = await send(first.base_url, alice, [bob])
    mailbox = f"offline_messages:{{{bob.user_id}}}"
    await eventually(lambda: house.redis.zscore(mailbox, message_id) == 1)
    first.kill()
    with closing(sqlite3.connect(house.directory / "data" / "meeting-push.db", timeout=10)) as sql:
        with sql:  # 也许刚来得及记下
            sql.execute("UPDATE mp_messages SET enqueued_at = NULL")
        last = house.start()
        marked = "SELECT enqueued_at FROM mp_messages WHERE message_id = ?"
        await eventually(lambda: sql.execute(marked, [message_id]).fetchone()[0] is not None)
    await eventually(lambda: house.redis.xlen("message_delivery_queue") == 0)
    assert house.redis.zrange(mailbox, 0, -1, withscores=True) == [(message_id, 1)]
    await arrives(last, bob, message_id)


async def test_dlv_1_killed_after_the_push_before_the_ack(house: House) -> None:
    first = house.start()
    alice, bob = await people(first)
    async with device(first.ws_url(bob.user_id), bob) as phone:
        message_id = await send(first.base_url, alice, [bob])
        await phone.next_message()
        first.kill()
    await arrives(house.start(), bob, message_id)


async def test_dlv_1_redis_killed_with_the_message_in_the_mailbox(house: House) -> None:
    server = house.start()
    alice, bob = await people(server)
    message_id = await send(server.base_url, alice, [bob])
    with Redis.from_url(house.redis_server.url) as redis:
        await eventually(lambda: redis.zcard(f"offline_messages:{{{bob.user_id}}}") == 1)
    house.redis_server.kill()
    house.redis_server.start()
    await eventually(server.is_ready)
    await arrives(server, bob, message_id)


async def test_con_4_redis_down_accepts_and_delivers_on_return(house: House) -> None:
    server = house.start()
    alice, bob = await people(server)
    async with device(server.ws_url(bob.user_id), bob) as phone:
        message_id = await sent_without_redis(house, server, alice, bob)
        assert (await phone.next_message(30))["message_id"] == message_id
        await phone.ack(message_id)

        async def delivered() -> bool:
            return bool((await delivery(server.base_url, alice, message_id))["delivered"])

        await eventually(delivered)


async def test_con_4_what_could_not_be_enqueued_does_not_wait_for_the_next_sweep(
    house: House,
) -> None:
    server = house.start(relay_interval_s=600, relay_grace_s=600)
    alice, bob = await people(server)
    async with device(server.ws_url(bob.user_id), bob) as phone:
        message_id = await sent_without_redis(house, server, alice, bob)
        assert (await phone.next_message(30))["message_id"] == message_id


async def test_dlv_1_killed_at_any_moment_nothing_accepted_is_lost(house: House) -> None:
    """连发，中途杀掉重启几次；每个 202 都要到，重复只能是同一个 id。"""
    server = house.start()
    alice, bob = await people(server)
    accepted: set[str] = set()
    for _ in range(3):
        for _ in range(20):
            accepted.add(await send(server.base_url, alice, [bob]))
        server.kill()
        server.start()
    received: set[str] = set()
    async with device(server.ws_url(bob.user_id), bob) as phone:
        while received < accepted:
            frame = await phone.next_message()
            received.add(frame["message_id"])
            await phone.ack(frame["message_id"])
    assert received == accepted


async def test_dlv_1_killed_with_groups_of_keyed_requests_on_the_way_each_is_there_once(
    house: House,
) -> None:
    """一组共用一个提交：杀掉时没有等到回答的，带着同一个键再来；键与消息一起在，或都不在。"""
    server = house.start()
    alice, bob = await people(server)
    answers: dict[str, str] = {}

    async def post(api: httpx.AsyncClient, key: str) -> None:
        body = {"recipient_ids": [bob.user_id], "title": "t", "content": key}
        answer = await api.post("/messages", json=body, headers={"Idempotency-Key": key})
        assert answer.status_code == 202, answer.text
        message_id = answer.json()["message_id"]
        assert answers.setdefault(key, message_id) == message_id

    keys = [f"k{number}" for number in range(30)]
    async with api_of(server.base_url, alice) as api:
        first = [asyncio.create_task(post(api, key)) for key in keys]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        server.kill()
        await asyncio.gather(*first, return_exceptions=True)
        server.start()
        for key in keys:
            await post(api, key)
    contents: list[str] = []
    async with device(server.ws_url(bob.user_id), bob) as phone:
        while len(contents) < len(keys):
            frame = await phone.next_message()
            assert frame["message_id"] == answers[frame["content"]]
            contents.append(frame["content"])
            await phone.ack(frame["message_id"])
    assert sorted(contents) == sorted(keys)
