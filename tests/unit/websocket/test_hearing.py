"""CON-3：连着、订着、PING 有回答，却什么也听不到的节点自己会发现，自己会补救。"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from meeting_push.drill.stand_ins import RedisProxy, redis_proxy
from tests.support.eventually import eventually
from tests.support.people import device
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node

#: 15 秒缩成半秒；再短，忙的机器上没聋也像聋了。
QUICK = {"canary_interval_s": 0.05, "canary_deaf_s": 0.4, "drain_window_s": 0.1}


@contextlib.asynccontextmanager
async def proxied(
    tmp_path: Path, server: RedisServer, prefix: str, **settings: object
) -> AsyncIterator[tuple[Node, RedisProxy]]:
    async with (
        redis_proxy(server.port) as proxy,
        running_node(tmp_path, proxy.url, prefix, **(QUICK | settings)) as node,
    ):
        yield node, proxy


async def unready(node: Node) -> None:
    async def fails() -> bool:
        return "canary" in await node.failing()

    await eventually(fails, 10)


async def ready(node: Node) -> None:
    async def works() -> bool:
        return not await node.failing()

    await eventually(works, 10)


async def test_con_3_a_deaf_node_turns_unready_and_recovers(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    async with proxied(tmp_path, redis_server, key_prefix) as (node, proxy):
        await ready(node)  # 启动途中开始的那一遍检查，看到的是还没订上
        proxy.deaf = True
        await unready(node)
        await eventually(lambda: node.push._rooms.bus.subscriber.connected)
        proxy.deaf = False
        await ready(node)
        assert node.push._rooms.edge.hearing.canary.statistics().resets >= 1


async def test_con_3_what_was_missed_is_read_again(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    async with proxied(tmp_path, redis_server, key_prefix) as (node, proxy):
        bob = node.person(7)
        async with device(node.ws_url(7), bob) as phone:
            proxy.deaf = True
            sent = await node.send(7)
            await eventually(lambda: proxy.swallowed > 1)
            assert not phone.has_message()
            await unready(node)
            proxy.deaf = False
            assert (await phone.next_message())["message_id"] == sent.message_id


async def test_con_3_a_node_that_stays_deaf_sends_its_clients_away(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    async with proxied(tmp_path, redis_server, key_prefix) as (node, proxy):
        bob = node.person(7)
        async with device(node.ws_url(7), bob) as phone:
            proxy.deaf = True
            with pytest.raises(ConnectionClosed) as closed:
                await phone.reader
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4007
            assert [frame["code"] for frame in phone.others] == ["node_unhealthy"]
        await ready_after(node, proxy)
        async with device(node.ws_url(7), bob):
            pass


async def ready_after(node: Node, proxy: RedisProxy) -> None:
    proxy.deaf = False
    await ready(node)


async def test_con_3_a_short_deafness_is_noticed_by_the_hole(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    """短到不算聋，但漏了东西：后一只金丝雀说出来。"""
    async with proxied(tmp_path, redis_server, key_prefix, canary_deaf_s=60) as (
        node,
        proxy,
    ):
        async with device(node.ws_url(7), node.person(7)) as phone:
            await eventually(lambda: node.push._rooms.edge.hearing.canary.statistics().heard > 0)
            proxy.deaf = True
            sent = await node.send(7)
            await eventually(lambda: proxy.swallowed >= 3)
            proxy.deaf = False
            assert (await phone.next_message())["message_id"] == sent.message_id
        statistics = node.push._rooms.edge.hearing.canary.statistics()
        assert statistics.missed > 0
        assert statistics.resets == 0


async def test_con_4_redis_away_is_not_deafness(
    tmp_path: Path, private_redis_server: RedisServer, key_prefix: str
) -> None:
    url = private_redis_server.url
    async with (
        running_node(tmp_path, url, key_prefix, **QUICK) as node,
        device(node.ws_url(7), node.person(7)) as phone,
    ):
        await eventually(lambda: node.push._rooms.edge.hearing.canary.statistics().heard > 0)
        private_redis_server.kill()
        await eventually(lambda: not node.push._rooms.bus.subscriber.connected)
        private_redis_server.start()
        await ready(node)
        sent = await node.send(7)
        assert (await phone.next_message())["message_id"] == sent.message_id
        assert node.push._rooms.edge.hearing.canary.statistics().resets == 0
