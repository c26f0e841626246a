"""CON-2：一个节点 ``kill -9``，租约一到期在线状态就全对，从第一次读取起。

同一件事两遍：缩短的时限，平时跑；默认的时限与 2,000 条连接，``make test-full-size``。
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from meeting_push_bench.open_files import allow_sockets
from tests.support.crowd import crowd
from tests.support.eventually import eventually
from tests.support.pair import ADMIN, BOB, QUICK, Pair, metric, on, online, person, states, watch
from tests.support.people import Device, api_of
from tests.support.redis_server import RedisServer

FIRST_ID = 1_000
#: 同时进行的 REST 读取。
READERS = 8


class Town:
    """``sockets`` 条连接在将死的节点上：一半的人一条，四分之一的人两条；每十五人有一个在另一个
    节点上还有一条。``BOB`` 只在另一个节点上。"""

    def __init__(self, both: Pair, redis: Redis, sockets: int) -> None:
        self.both = both
        self._redis = redis
        ids = list(range(FIRST_ID, FIRST_ID + sockets // 2 + sockets // 4))
        self.doomed = ids + ids[sockets // 2 :]
        self.moved = ids[::15]
        self.before = Counter([*self.doomed, *self.moved, BOB.user_id])
        self.after = Counter([*self.moved, BOB.user_id])
        #: user_id → 他留下的连接，死后才知道要紧。
        self.left: dict[int, set[str]] = {user_id: set() for user_id in self.before}
        self.died_at = 0.0

    @property
    def since_s(self) -> float:
        """死后多少秒。"""
        return time.monotonic() - self.died_at

    async def fill(self, survivors: contextlib.AsyncExitStack) -> Device:
        """所有人都在，都看得见；返回 ``BOB`` 的设备。随后第一个节点死去。"""
        second = self.both.second
        staying = await survivors.enter_async_context(
            crowd((second, person(user_id)) for user_id in self.moved)
        )
        bob = await survivors.enter_async_context(on(second, BOB))
        for one in [*staying, bob]:
            self.left[one.welcome["user_id"]].add(one.welcome["connection_id"])
        async with crowd((self.both.first, person(user_id)) for user_id in self.doomed):

            async def everyone() -> bool:
                return await self.counts() == self.before

            await eventually(everyone, 30)
            self._lease = self._key(f"node:{await self._node_of(self.doomed[1])}")
            self.both.first.kill()
            self.died_at = time.monotonic()
        return bob

    def _key(self, name: str) -> str:
        return self.both.prefix + name

    async def _node_of(self, user_id: int) -> str:
        [info] = await self._redis.hvals(self._key(f"online_users:{{{user_id}}}"))
        return str(json.loads(info)["node"])

    async def counts(self) -> Counter[int]:
        """``GET /presence/online``，翻完所有页。"""
        rows = await online(self.both.second)
        return Counter({row["user_id"]: row["connection_count"] for row in rows})

    async def leased(self) -> bool:
        return bool(await self._redis.exists(self._lease))

    async def read_until_right(self) -> None:
        """租约在，读到的是死前的样子；不在了，第一次就是对的。翻页途中到期的那一次两可。"""
        while await self.leased():
            seen = await self.counts()
            assert not await self.leased() or seen == self.before
        assert await self.counts() == self.after

    async def check_details(self) -> None:
        """此刻 ``GET /presence/users/{id}`` 对每一个人，一次就对。"""
        waiting = iter(self.before)

        async def reader(api: httpx.AsyncClient) -> None:
            for user_id in waiting:
                seen = (await api.get(f"/presence/users/{user_id}")).json()
                ids = {one["connection_id"] for one in seen["connections"]}
                assert ids == self.left[user_id], user_id
                assert (seen["connection_count"], seen["online"]) == (len(ids), bool(ids))

        async with api_of(self.both.second.base_url, ADMIN) as api:
            await asyncio.gather(*(reader(api) for _ in range(READERS)))

    async def redis_is_right(self) -> bool:
        """``online_users_set``、每个人的计数与详情，键里的样子。"""
        members = await self._redis.zrange(self._key("online_users_set"), 0, -1)
        if {str(member) for member in members} != {str(user_id) for user_id in self.after}:
            return False
        async with self._redis.pipeline(transaction=False) as pipe:
            for user_id in self.before:
                pipe.get(self._key(f"user_connections_count:{{{user_id}}}"))
                pipe.hkeys(self._key(f"online_users:{{{user_id}}}"))
            replies = await pipe.execute()
        counts = Counter(dict(zip(self.before, map(int_or_0, replies[::2]), strict=True)))
        details = dict(zip(self.before, map(set, replies[1::2]), strict=True))
        return counts == self.after and details == self.left


def int_or_0(text: str | None) -> int:
    return int(text or 0)


async def a_node_dies(
    directory: Path, server: RedisServer, sockets: int, settings: Mapping[str, object]
) -> dict[str, float]:
    """一切都对的过程；返回各项死后多少秒对的。"""
    figures: dict[str, float] = {}
    with Pair(directory, server, settings) as both:
        async with (
            Redis.from_url(server.url, decode_responses=True) as redis,
            contextlib.AsyncExitStack() as survivors,
        ):
            town = Town(both, redis, sockets)
            bob = await town.fill(survivors)
            moved, gone = town.moved[0], town.doomed[1]
            await watch(bob, moved, gone)
            await town.read_until_right()
            figures["GET /presence/online"] = town.since_s
            await town.check_details()
            figures["GET /presence/users/{id}, every user"] = town.since_s
            await eventually(town.redis_is_right, 60)
            figures["the set, counts and details in Redis"] = town.since_s
            await eventually(lambda: states(bob, gone)[-1] == (False, None), 60)
            figures["a watcher is told"] = town.since_s
            assert states(bob, moved) == [(True, "active")]
            assert await metric(both.second, "nodes_reaped_total") == 1
            assert await metric(both.second, "connections_reaped_total") == sockets
    return figures


async def test_con_2_a_killed_server_leaves_no_zombies(
    tmp_path: Path, redis7_server: RedisServer
) -> None:
    await a_node_dies(tmp_path, redis7_server, 200, QUICK)


@pytest.mark.full_size
@pytest.mark.timeout(300)
async def test_con_2_two_thousand_sockets_with_the_default_times(
    tmp_path: Path, redis7_server: RedisServer, show: Callable[[str], None]
) -> None:
    allow_sockets(2 * 2_000)
    figures = await a_node_dies(tmp_path, redis7_server, 2_000, {})
    for what, after_s in figures.items():
        show(f"right after {after_s:4.1f} s: {what}")
    assert max(figures.values()) < 60
