"""关机的次序（docs/operations.md）：先不就绪，再做完手上的，再送客，再写账，最后消失。"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from meeting_push.model import DeliveryStatus
from tests.support.people import Device, device, register
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node
from tests.support.server_process import ServerProcess

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


async def test_a_few_sockets_are_quick(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        bob = await register(server.base_url, "bob")
        url = server.ws_url(bob.user_id)
        async with device(url, bob) as one, device(url, bob) as two:
            started = time.monotonic()
            assert await asyncio.to_thread(server.terminate) == 0
            assert time.monotonic() - started < 4
            await asyncio.wait([one.reader, two.reader])


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, settings={"handshake_timeout_s": 30}) as server:
        bob = await register(server.base_url, "bob")
        _, stubborn = await silent_socket(server, bob.user_id, bob.token)
        os.kill(server.pid, signal.SIGTERM)
        await asyncio.to_thread(_wait_for, server, "draining")
        started = time.monotonic()
        assert await asyncio.to_thread(server.terminate) == 1
        assert time.monotonic() - started < 5
        stubborn.close()


async def silent_socket(
    server: ServerProcess, user_id: int, token: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """升级之后再也不说话的客户端：关闭帧也不回。"""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET /ws/user/{user_id}/messages HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head, head
    return reader, writer


def _wait_for(server: ServerProcess, words: str) -> None:
    deadline = time.monotonic() + 10
    while words not in server.output:
        assert time.monotonic() < deadline, server.output
        time.sleep(0.01)
