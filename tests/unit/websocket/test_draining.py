"""关机的次序（docs/operations.md）：先不就绪，再做完手上的，再送客，再写账，最后消失。"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from meeting_push.model import DeliveryStatus
from tests.support.people import Device, device
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node

SOCKETS = 60  # 每秒送走 200 个：0.3 秒


async def many(stack: contextlib.AsyncExitStack, node: Node, count: int) -> list[Device]:
    lines = []
    for user_id in range(1, count + 1):
        line = device(node.ws_url(user_id), node.person(user_id))
        lines.append(await stack.enter_async_context(line))
    return lines


async def test_while_draining_it_is_unready_and_newcomers_are_4000(
    tmp_path: Path, redis7_server: RedisServer, key_prefix: str
) -> None:
    async with (
        running_node(tmp_path, redis7_server.url, key_prefix) as node,
        contextlib.AsyncExitStack() as stack,
    ):
        await many(stack, node, SOCKETS)
        draining = asyncio.create_task(node.push.drain())
        await asyncio.sleep(0)
        assert await node.failing() == {"process"}
        with pytest.raises(ConnectionClosed) as closed:
            async with device(node.ws_url(99), node.person(99)):
                pass
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4000
        assert not draining.done()
        await draining


async def test_consumers_finish_before_the_first_client_leaves(
    tmp_path: Path, redis7_server: RedisServer, key_prefix: str
) -> None:
    async with (
        running_node(tmp_path, redis7_server.url, key_prefix) as node,
        device(node.ws_url(7), node.person(7)) as phone,
    ):
        draining = asyncio.create_task(node.push.drain())
        await asyncio.wait([phone.reader])
        loops = {loop.name: loop.running for loop in node.push._supervisor.states()}
        assert not any(running for name, running in loops.items() if name.startswith("consumer"))
        await draining


async def test_everybody_is_told_and_sent_off_over_the_window(
    tmp_path: Path, redis7_server: RedisServer, key_prefix: str
) -> None:
    async with (
        running_node(tmp_path, redis7_server.url, key_prefix, drain_window_s=0.2) as node,
        contextlib.AsyncExitStack() as stack,
    ):
        lines = await many(stack, node, SOCKETS)
        started = time.monotonic()
        await node.push.drain()
        assert time.monotonic() - started >= 0.15
        for line in lines:
            await asyncio.wait([line.reader])
            assert line.socket.close_code == 4000
            assert [frame["code"] for frame in line.others] == ["draining"]
            assert line.others[0]["reconnect_after_ms"] > 0


async def test_acks_are_written_before_the_end(
    tmp_path: Path, redis7_server: RedisServer, key_prefix: str
) -> None:
    settings = {"ack_flush_ms": 500}
    async with running_node(tmp_path, redis7_server.url, key_prefix, **settings) as node:
        async with device(node.ws_url(7), node.person(7)) as phone:
            sent = await node.send(7)
            await phone.next_message()
            await phone.ack(sent.message_id)
            await phone.round_trip()
            await node.push.drain()
        _, page = await node.push.confirmation.get_message_delivery_status(sent.message_id)
        assert [one.status for one in page.items] == [DeliveryStatus.DELIVERED]


async def test_presence_seats_and_the_lease_are_gone_in_the_end(
    tmp_path: Path, redis7_server: RedisServer, key_prefix: str
) -> None:
    async with running_node(tmp_path, redis7_server.url, key_prefix) as survivor:
        async with (
            running_node(tmp_path, redis7_server.url, key_prefix) as node,
            device(node.ws_url(7), node.person(7)),
        ):
            await node.push.presence.flush()
            assert await survivor.push.presence.is_user_online(7)
            await node.push.drain()
        keys, lean = survivor.push._rooms.bus.redis.keys, survivor.push._rooms.bus.redis.lean
        gone = (keys.online_user(7), keys.user_slots(7), keys.node(node.push.node_id))
        assert await lean.execute("EXISTS", *gone) == 0
        assert await lean.execute("HEXISTS", keys.node_reports, node.push.node_id) == 0
