"""造好之后才 fork 的工人（``gunicorn --preload``）：构造时做下的，没有一样是共用的身份。"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from redis.asyncio import Redis

from meeting_push.redis.keys import Keys
from tests.support import forked_workers
from tests.support.eventually import eventually
from tests.support.pair import ALICE, BOB
from tests.support.people import Person, device
from tests.support.redis_server import RedisServer

_ROOT: Final = Path(__file__).parents[2]


@contextlib.asynccontextmanager
async def workers(
    count: int, redis_url: str, data_dir: Path, prefix: str
) -> AsyncIterator[list[tuple[int, str, int]]]:
    """各工人的（pid，节点，端口）。"""
    arguments = (str(count), redis_url, str(data_dir), prefix)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, forked_workers.__file__, *arguments),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            lines = [(await process.stdout.readline()).split() for _ in range(count)]
        yield [(int(pid), node.decode(), int(port)) for pid, node, port in lines]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def address(port: int, person: Person) -> str:
    return f"ws://127.0.0.1:{port}/ws/user/{person.user_id}/messages"


async def until(redis: Redis, prefix: str, person: Person, count: int) -> None:
    async def reached() -> bool:
        return bool(await redis.hlen(Keys(prefix).online_user(person.user_id)) == count)

    await eventually(reached)


@pytest.mark.parametrize("which", [0, 1])
async def test_one_forked_workers_end_leaves_the_others_people_online(
    which: int, redis7_server: RedisServer, tmp_path: Path, key_prefix: str
) -> None:
    """F3: 0.1 在构造时取节点的名字，几个工人同名，走一个就收走大家的在线状态。"""
    async with (
        workers(2, redis7_server.url, tmp_path, key_prefix) as pair,
        Redis.from_url(redis7_server.url) as redis,
    ):
        leaving, staying = pair[which], pair[1 - which]
        assert leaving[1] != staying[1]
        async with device(address(staying[2], BOB), BOB):
            phone = device(address(leaving[2], ALICE), ALICE)
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(phone)
                await until(redis, key_prefix, ALICE, 1)
                await until(redis, key_prefix, BOB, 1)
                os.kill(leaving[0], signal.SIGTERM)
                await until(redis, key_prefix, ALICE, 0)
            await until(redis, key_prefix, BOB, 1)
            assert await redis.exists(Keys(key_prefix).node(staying[1])) == 1
