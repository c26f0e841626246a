"""关机：消费者做完手上的、从消费组除名，正空等着的立刻叫醒。"""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.running_node import running_node


async def test_draining_wakes_consumers_that_wait(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    settings = {"consumer_block_ms": 60_000}
    async with running_node(tmp_path, redis_server.url, key_prefix, **settings) as node:
        lean = node.push._rooms.bus.redis.lean

        async def all_wait() -> bool:
            clients = b"".join(await lean.everywhere("CLIENT", "LIST"))
            waiting = sum(
                node.push.node_id.encode() in line and b" cmd=xreadgroup" in line
                for line in clients.splitlines()
            )
            return waiting == node.push.settings.queue.consumer_tasks

        await eventually(all_wait, 10)
        async with asyncio.timeout(10):
            await node.push._rooms.messages.consumers.drain()


async def test_nothing_taken_is_left_unacknowledged(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    async with running_node(tmp_path, redis_server.url, key_prefix) as node:
        push = node.push
        for _ in range(50):
            await node.send(7)
        await push._rooms.messages.consumers.drain()
        assert {length.pending for length in await push._rooms.messages.queue.lengths()} == {0}
