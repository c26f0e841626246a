"""F3：``gunicorn --preload``，三个工人，结束一个：别人的在线状态一刻也不动摇。"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

import pytest
from redis.asyncio import Redis

from meeting_push.redis.keys import Keys
from tests.support.eventually import eventually
from tests.support.people import Device, Person, device
from tests.support.redis_server import RedisServer
from tests.system.guest.host import Host, person

pytestmark = pytest.mark.timeout(180)

_PEOPLE: Final = 12
#: 看的人自己停了这么久（秒）：机器停过，租约也许真的到过期，那一眼不算。
_STALLED_S: Final = 5.0


async def counts(redis: Redis, keys: Keys, people: list[Person]) -> list[int]:
    async with redis.pipeline(transaction=False) as pipe:
        for one in people:
            pipe.hlen(keys.online_user(one.user_id))
        return list(await pipe.execute())


async def wavering(redis: Redis, keys: Keys, staying: list[Person], gone: list[Person]) -> set[int]:
    """看到 ``gone`` 都下线了为止；``staying`` 里谁有一眼不在线。"""
    seen, last = set[int](), time.monotonic()
    while any(await counts(redis, keys, gone)):
        now = await counts(redis, keys, staying)
        if time.monotonic() - last < _STALLED_S:
            seen |= {one.user_id for one, n in zip(staying, now, strict=True) if n != 1}
        last = time.monotonic()
    return seen


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_f3_one_preloaded_workers_end_leaves_the_others_people_online(
    how: signal.Signals,
    tmp_path: Path,
    redis7_server: RedisServer,
    key_prefix: str,
    database_url: str,
) -> None:
    people, keys = [person(number) for number in range(1, _PEOPLE + 1)], Keys(key_prefix)
    with Host(
        "gunicorn-preload",
        tmp_path,
        redis7_server,
        key_prefix,
        workers=3,
        database_url=database_url,
    ) as host:
        async with contextlib.AsyncExitStack() as stack:
            redis = await stack.enter_async_context(Redis.from_url(redis7_server.url))
            held: dict[int, list[Person]] = {pid: [] for pid in host.pids}
            devices: dict[int, Device] = {}
            for one in people:
                phone = await stack.enter_async_context(device(host.ws_url(one), one))
                worker = host.worker_of(phone.socket.local_address[1])
                assert worker is not None
                held[worker].append(one)
                devices[one.user_id] = phone

            async def all_online() -> bool:
                return await counts(redis, keys, people) == [1] * _PEOPLE

            await eventually(all_online, 30)
            leaving = min((pid for pid in held if held[pid]), key=lambda pid: len(held[pid]))
            gone = held.pop(leaving)
            staying = [one for each in held.values() for one in each]
            assert staying, "one worker took every connection"
            os.kill(leaving, how)
            assert await wavering(redis, keys, staying, gone) == set()
            await asyncio.wait([devices[one.user_id].reader for one in gone])
            assert not any(devices[one.user_id].reader.done() for one in staying)
