"""时间与压力：心跳超时、令牌到期、慢客户端、消失的客户端、关机。"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from meeting_push.protocol.codes import CloseCode
from meeting_push.protocol.frames import Notice
from tests.support.edge_world import Client, World
from tests.support.eventually import eventually

from .harness import EdgeHarness

#: 清扫的间隔取最短时限的四分之一：50 ms 一次。
QUICK_SWEEP = {"outbox_max_delay_s": 0.2}


def short_lived(world: World) -> AbstractAsyncContextManager[Client]:
    """令牌 0.3 秒后到期的客户端。"""
    return world.live(1, token=world.token(1, ttl_ms=300))


@contextlib.asynccontextmanager
async def deaf(world: World, user_id: int) -> AsyncIterator[Client]:
    """连上、读了 welcome，之后不再读：接收窗口很小。"""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", world.port))
    async with world.live(
        user_id, sock=sock, max_queue=1, max_size=None, close_timeout=0.2
    ) as client:
        yield client


async def stuff(world: World, user_id: int) -> None:
    """一直投递，直到该用户的连接没了。"""
    number = 0
    while world.manager.get_user_connections(user_id):
        number += 1
        world.bus.deliver(user_id, number, content="x" * 50_000)
        await asyncio.sleep(0)
        assert number < 2_000, "100 MB went to a client that does not read"


class TimeBehaviour(EdgeHarness):
    async def test_silence_is_4003(self) -> None:
        async with (
            self.world(heartbeat_interval_s=0.1, heartbeat_timeout_s=0.2) as world,
            world.live(1) as client,
        ):
            assert await client.closed() == (4003, "heartbeat_timeout")
            assert world.manager.user_connections == {}

    async def test_heartbeats_keep_the_connection(self) -> None:
        async with (
            self.world(heartbeat_interval_s=0.1, heartbeat_timeout_s=0.3) as world,
            world.live(1) as client,
        ):
            for _ in range(8):
                await client.ask(type="heartbeat", timestamp=1)
                await asyncio.sleep(0.1)  # 时间本身就是被测的东西
            assert world.manager.get_user_connections(1)

    async def test_an_expired_token_is_4004(self) -> None:
        async with self.world(**QUICK_SWEEP) as world, short_lived(world) as client:
            assert (await client.read())["type"] == "token_expiring"
            assert await client.closed() == (4004, "token_expired")

    async def test_refreshing_keeps_the_connection(self) -> None:
        async with self.world(**QUICK_SWEEP) as world, short_lived(world) as client:
            assert (await client.read())["type"] == "token_expiring"
            await client.ask(type="refresh_token", token=world.token(1))
            await asyncio.sleep(0.5)  # 越过旧令牌的到期：时间本身就是被测的东西
            assert world.manager.get_user_connections(1)


class SlownessBehaviour(EdgeHarness):
    async def test_a_slow_consumer_is_4001_and_delays_nobody(self) -> None:
        async with self.world(outbox_max_bytes=256 * 1024) as world, world.live(2) as other:
            async with deaf(world, 1) as slow:
                await stuff(world, 1)
                world.bus.deliver(2, 1)
                assert (await other.read())["title"] == "t1"
                assert await slow.closed() == (4001, "slow_consumer")
            assert world.manager.statistics().closes[4001] == 1

    async def test_blocked_for_too_long_is_4001(self) -> None:
        limits = {"outbox_max_bytes": 64 * 1024 * 1024, "outbox_max_delay_s": 0.2}
        async with self.world(**limits) as world, deaf(world, 1) as slow:
            await stuff_until_blocked(world, 1)
            await eventually(lambda: not world.manager.get_user_connections(1))
            assert await slow.closed() == (4001, "slow_consumer")

    async def test_large_frames_survive_a_full_socket(self) -> None:
        """传输里有积压时再写大帧，字节不得错乱（picows 的头部是借来的缓冲）。"""
        async with self.world(outbox_max_bytes=64 * 1024 * 1024) as world, deaf(world, 1) as slow:
            sent = await stuff_until_blocked(world, 1)
            messages = await slow.read_messages(sent)
        assert [message["seq"] for message in messages] == list(range(1, sent + 1))

    async def test_a_client_that_does_not_leave_is_cut_off(self) -> None:
        limits = {"outbox_max_bytes": 64 * 1024, "handshake_timeout_s": 0.3}
        async with self.world(**limits) as world, deaf(world, 1):
            await stuff(world, 1)
            await eventually(lambda: world.manager.statistics().sockets == 0)

    async def test_a_ping_flood_without_reading_is_bounded(self) -> None:
        async with self.world() as world, world.live(2) as other, deaf(world, 1) as flood:
            await stuff_until_blocked(world, 1)
            for number in range(200):
                await flood.websocket.ping(str(number))
            world.bus.deliver(2, 1)
            assert (await other.read())["title"] == "t1"

    async def test_a_vanished_client_is_removed(self) -> None:
        async with self.world() as world, world.live(1) as client:
            client.websocket.transport.abort()
            await eventually(lambda: world.manager.user_connections == {})
            await eventually(lambda: world.presence.online == {})
            assert world.channels.subscribed == set()

    async def test_a_client_that_says_goodbye_is_removed(self) -> None:
        async with self.world() as world:
            async with world.live(1) as client:
                await client.websocket.close()
                assert client.websocket.close_code == 1000
            await eventually(lambda: world.manager.statistics().sockets == 0)

    async def test_close_all_says_why_and_empties_the_house(self) -> None:
        async with self.world() as world, world.live(1) as one, world.live(2) as two:
            closing = asyncio.create_task(world.manager.close_all(spread_s=0.05))
            notice = await one.read()
            assert (notice["type"], notice["code"]) == ("notice", "draining")
            assert await one.closed() == (4000, "server_draining")
            assert await two.closed() == (4000, "server_draining")
            await closing
            assert world.manager.statistics().sockets == 0

    async def test_after_close_all_newcomers_are_sent_away(self) -> None:
        async with self.world() as world:
            await world.manager.close_all()
            async with world.client(1) as client:
                assert await client.closed() == (4000, "server_draining")

    async def test_kicking_one_device_leaves_the_other(self) -> None:
        async with self.world() as world, world.live(1) as one, world.live(1) as two:
            connection = world.manager.get_user_connections(1)[0]
            world.manager.disconnect_user(1, connection, CloseCode.KICKED)
            world.manager.disconnect_user(1, connection)
            kicked, kept = (
                (one, two)
                if one.welcome["connection_id"] == connection.connection_id
                else (two, one)
            )
            assert await kicked.closed() == (4503, "kicked")
            world.bus.deliver(1, 1)
            assert (await kept.read())["seq"] == 1

    async def test_broadcast_to_user_counts_local_devices(self) -> None:
        async with self.world() as world, world.live(1) as one, world.live(1) as two:
            notice = Notice(code="hello", reconnect_after_ms=0)
            assert world.manager.broadcast_to_user(1, notice) == 2
            assert world.manager.broadcast_to_user(1, {"type": "own", "x": 1}) == 2
            assert world.manager.broadcast_to_user(9, notice) == 0
            for client in (one, two):
                assert (await client.read())["code"] == "hello"
                assert await client.read() == {"type": "own", "x": 1}

    async def test_broadcast_all(self) -> None:
        async with self.world() as world, world.live(1) as one, world.live(2) as two:
            assert world.manager.broadcast_all({"type": "own"}) == 2
            assert json.loads(await one.read_text()) == json.loads(await two.read_text())


async def stuff_until_blocked(world: World, user_id: int) -> int:
    """投递到它的发件箱排起队为止，返回投了几条；长短不一，头部才各不相同。"""
    (connection,) = world.manager.get_user_connections(user_id)
    number = 0
    while connection.outbox.size < 500_000:
        number += 1
        world.bus.deliver(user_id, number, content="x" * (9_000 + number * 977 % 20_000))
        if number % 5 == 0:
            await asyncio.sleep(0)
        assert number < 5_000, "100 MB went to a client that does not read"
    return number
