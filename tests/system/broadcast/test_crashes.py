"""广播在每一步死掉会怎样。"""

from __future__ import annotations

from pathlib import Path

from redis import Redis

from tests.support.eventually import eventually
from tests.support.people import Device, device, register, send
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

from .conftest import QUICK, admin, broadcast, delivery, visit


def server_in(folder: Path, redis: RedisServer) -> ServerProcess:
    return ServerProcess(folder, redis_url=redis.url, settings=QUICK)


async def drained(phone: Device, server: ServerProcess, user_id: int) -> list[str]:
    """此刻积着的全部广播（之后的一条私信收尾）。"""
    person = await register(server.base_url, "bob")
    assert person.user_id == user_id
    marker = await send(server.base_url, admin(), [person])
    ids = []
    while (frame := await phone.next_message())["message_id"] != marker:
        ids.append(frame["message_id"])
    return ids


async def test_dlv_1_killed_between_the_commit_and_the_log_it_is_still_sent_once(
    tmp_path: Path, private_redis_server: RedisServer
) -> None:
    with server_in(tmp_path, private_redis_server) as server:
        bob = await register(server.base_url, "bob")
        await visit(server, bob)
        private_redis_server.kill()
        message_id = await broadcast(server)
        server.kill()
        private_redis_server.start()
        server.start()
        with Redis.from_url(private_redis_server.url) as redis:
            await eventually(lambda: redis.xlen("broadcast_log") == 1)
        async with device(server.ws_url(bob.user_id), bob) as phone:
            assert await drained(phone, server, bob.user_id) == [message_id]


async def test_dlv_1_a_restarted_node_still_knows_who_has_what(
    tmp_path: Path, private_redis_server: RedisServer
) -> None:
    with server_in(tmp_path, private_redis_server) as server:
        bob = await register(server.base_url, "bob")
        await visit(server, bob)
        first, second = await broadcast(server), await broadcast(server)
        async with device(server.ws_url(bob.user_id), bob) as phone:
            await phone.next_message()
            await phone.next_message()
            await phone.ack(first)

            async def recorded() -> bool:
                return bool((await delivery(server, first))["delivered"])

            await eventually(recorded)
        server.kill()
        server.start()
        async with device(server.ws_url(bob.user_id), bob) as phone:
            assert await drained(phone, server, bob.user_id) == [second]


async def test_con_4_redis_back_after_a_while_nobody_connected_missed_it(
    tmp_path: Path, private_redis_server: RedisServer
) -> None:
    with server_in(tmp_path, private_redis_server) as server:
        bob = await register(server.base_url, "bob")
        async with device(server.ws_url(bob.user_id), bob) as phone:
            private_redis_server.kill()
            message_id = await broadcast(server)
            private_redis_server.start()
            assert (await phone.next_message(30))["message_id"] == message_id
            await phone.round_trip()
            assert not phone.has_message()
