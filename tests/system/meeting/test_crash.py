"""``kill -9``、Redis 断开：转录不洞，结束的通知恰好一次，死节点上的人会离开。"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.house import House
from tests.support.meetings import attend, end, hold, live
from tests.support.people import Device, Person, api_of, device, register
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

from .conftest import QUICK


@pytest.fixture
def house(tmp_path: Path, private_redis_server: RedisServer, database_url: str) -> Iterator[House]:
    """先后起落的服务器。"""
    with House(tmp_path, private_redis_server, database_url=database_url, shared=QUICK) as house:
        yield house


async def people(server: ServerProcess) -> tuple[Person, Person]:
    return await register(server.base_url, "alice"), await register(server.base_url, "bob")


async def notified(phone: Device, meeting_id: str) -> None:
    """恰好一条通知，说的是这场会议。"""
    message = await phone.next_message()
    assert message["message_type"] == "notification"
    assert message["data"]["meeting_id"] == meeting_id
    await phone.ack(message["message_id"])
    await phone.round_trip()
    assert not phone.has_message()


async def test_the_end_reaches_the_users_message_socket_exactly_once(house: House) -> None:
    server = house.start()
    alice, bob = await people(server)
    meeting_id = await hold(server, alice, bob)
    async with device(server.ws_url(bob.user_id), bob) as phone:
        await end(server, alice, meeting_id)
        await end(server, alice, meeting_id)
        await notified(phone, meeting_id)


async def test_dlv_1_killed_between_the_end_and_the_notification(
    house: House, private_redis_server: RedisServer
) -> None:
    """没有 Redis 时提交停在入队之前；进程死在那里，通知仍然到，且只有一条。"""
    first = house.start()
    alice, bob = await people(first)
    meeting_id = await hold(first, alice, bob)
    private_redis_server.kill()
    assert (await end(first, alice, meeting_id))["ended_at"] is not None
    first.kill()
    private_redis_server.start()
    second = house.start()
    await end(second, alice, meeting_id)
    async with device(second.ws_url(bob.user_id), bob) as phone:
        await notified(phone, meeting_id)
    async with api_of(second.base_url, bob) as api:
        assert len((await api.get("/messages")).json()["items"]) == 1


async def test_con_2_who_was_on_a_killed_node_leaves(house: House) -> None:
    near, far = house.start(), house.start()
    alice, bob = await people(near)
    meeting_id = await hold(near, alice, bob)
    async with live(near, alice, meeting_id) as a, live(far, bob, meeting_id):
        await a.read_type("join")
        far.kill()
        leave = await a.read_type("leave")
        assert (leave["user_id"], leave["online"]) == (bob.user_id, False)


async def test_dlv_5_what_was_said_while_redis_was_down_still_comes(
    house: House, private_redis_server: RedisServer
) -> None:
    near, far = house.start(), house.start()
    alice, bob = await people(near)
    meeting_id = await hold(near, alice, bob)
    async with live(near, alice, meeting_id) as a, live(far, bob, meeting_id) as b:
        await a.say("之前")
        await b.segments(1)
        private_redis_server.kill()
        await a.say("断开时", request_id=1)
        assert (await a.read_type("segment_result"))["seq"] == 2
        # 两个节点都从记录里补：说话的立刻，另一个靠定期核对，都不等 Redis 回来
        assert [s["seq"] for s in await b.segments(1)] == [2]
        private_redis_server.start()
        await eventually(lambda: near.is_ready() and far.is_ready(), 15)
        await a.say("之后", request_id=2)
        [after] = await b.segments(1)
        assert (after["seq"], after["text"]) == (3, "之后")


async def test_dlv_5_the_end_is_seen_though_its_announcement_was_lost(
    house: House, private_redis_server: RedisServer
) -> None:
    server = house.start()
    alice, _ = await people(server)
    meeting_id = await hold(server, alice)
    async with live(server, alice, meeting_id) as a:
        private_redis_server.kill()
        await end(server, alice, meeting_id)
        assert (await a.read_type("ended"))["type"] == "ended"
        assert await a.closed() == 1000


async def test_after_redis_lost_its_data_who_is_there_is_told_again(
    house: House, private_redis_server: RedisServer
) -> None:
    """在场的登记随 Redis 一起没了，脚本无从宣布谁走了：由节点自己核对。"""
    near, far = house.start(), house.start()
    alice, bob = await people(near)
    meeting_id = await hold(near, alice, bob)
    async with live(near, alice, meeting_id) as a, live(far, bob, meeting_id):
        await a.read_type("join")
        private_redis_server.kill()
        far.kill()
        shutil.rmtree(private_redis_server.directory / "appendonlydir", ignore_errors=True)
        (private_redis_server.directory / "appendonly.aof").unlink(missing_ok=True)
        private_redis_server.start()
        assert (await a.read_type("leave"))["user_id"] == bob.user_id


async def test_killed_while_talking_leaves_no_hole(house: House) -> None:
    server = house.start()
    alice, _ = await people(server)
    meeting_id = await hold(server, alice)
    for _ in range(2):
        async with live(server, alice, meeting_id) as a:
            for number in range(40):
                await a.say(f"{number}")
            await a.segments(5)
            server.kill()
        server.start()
    async with attend(server, alice, meeting_id) as a:
        seqs = [s["seq"] for s in await a.history()]
        assert seqs == list(range(1, a.welcome["seq"] + 1))
        assert len(seqs) >= 10


@pytest.mark.parametrize("role", ["api"])
async def test_the_api_role_serves_meetings(house: House, role: str) -> None:
    server = house.start(role)
    alice, _ = await people(server)
    async with live(server, alice, await hold(server, alice)) as a:
        await a.say("在")
        assert (await a.segments(1))[0]["seq"] == 1
