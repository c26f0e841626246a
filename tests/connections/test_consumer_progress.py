"""就绪看得见消费者：队列里有东西而没人动，就不就绪（LESSONS 20）；关机时做完手上的。"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from meeting_push.clock import now_ms
from meeting_push.errors import UnavailableError
from meeting_push.services.consumer_progress import ConsumerProgress
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer

from .node import running_node

STALL_S = 5


def later() -> int:
    return now_ms() + STALL_S * 2_000


async def test_an_idle_consumer_is_ready(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    async with running_node(tmp_path, redis_server.url, key_prefix) as node:
        push = node.push
        await ConsumerProgress(push.consumers, push.queue, STALL_S, clock=later).check()


async def test_a_stalled_consumer_with_work_waiting_is_not(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    """``api`` 角色不取：消费者从未动过，队列里却有东西。"""
    async with running_node(tmp_path, redis_server.url, key_prefix, role="api") as node:
        push = node.push
        await node.send(7)
        progress = ConsumerProgress(push.consumers, push.queue, STALL_S, clock=later)
        await eventually(push.queue.waiting, 10)
        with pytest.raises(UnavailableError, match="no progress"):
            await progress.check()
        await ConsumerProgress(push.consumers, push.queue, STALL_S).check()


async def test_draining_wakes_consumers_that_wait(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    settings = {"consumer_block_ms": 60_000}
    async with running_node(tmp_path, redis_server.url, key_prefix, **settings) as node:
        lean = node.push.redis.lean

        async def all_wait() -> bool:
            clients = await lean.execute("CLIENT", "LIST")
            waiting = sum(
                node.push.node_id.encode() in line and b" cmd=xreadgroup" in line
                for line in clients.splitlines()
            )
            return waiting == node.push.settings.consumer_tasks

        await eventually(all_wait, 10)
        async with asyncio.timeout(10):
            await node.push.consumers.drain(30)


async def test_nothing_taken_is_left_unacknowledged(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    async with running_node(tmp_path, redis_server.url, key_prefix) as node:
        push = node.push
        for _ in range(50):
            await node.send(7)
        await push.consumers.drain(10)
        assert {length.pending for length in await push.queue.lengths()} == {0}
