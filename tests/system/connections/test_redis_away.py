"""CON-4：Redis 停了 20 秒又回来（带着数据，或空的）：套接字都在，其余的自己恢复。

两种驱动各一个进程，默认的时限；``make test-full-size``。
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from meeting_push.storage.accounts import UserRepository
from meeting_push.storage.database import Database
from meeting_push_bench.open_files import allow_sockets
from tests.support.crowd import crowd
from tests.support.eventually import eventually
from tests.support.pair import ADMIN, online, person, states, watch
from tests.support.people import Device, api_of, delivery, send
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

AWAY_S = 20
USERS = range(1, 241)
WATCHERS = (241, 242)
#: 回来之后离开又再来的：每种驱动上各几个。
RESTLESS = USERS[:10]
#: 一次 ``watch`` 至多这么多人。
WATCH_CHUNK = 100
#: 各项恢复的上限；默认的时限里最长的是断开后重连的退避，与关注者的宽限 5 秒。
PATIENCE_S = 40

Edges = tuple[ServerProcess, ServerProcess]


@pytest.fixture
def edges(tmp_path: Path, private_redis_server: RedisServer) -> Iterator[Edges]:
    allow_sockets(2 * len(USERS))
    native, asgi = (
        ServerProcess(tmp_path, redis_url=private_redis_server.url, settings={"edge": edge})
        for edge in ("native", "asgi")
    )
    with native, asgi:
        yield native, asgi


async def register_everybody(directory: Path) -> None:
    """直接写进库里：几百次 argon2 与被测的事无关。"""
    database = Database(f"sqlite:///{directory}/data/meeting-push.db")
    users = UserRepository(database)
    for user_id in (*USERS, *WATCHERS):
        assert (await users.create(f"user-{user_id}", "-", "user", 1)).id == user_id
    await database.dispose()


class Town:
    def __init__(self, edges: Edges, devices: Sequence[Device], watchers: Sequence[Device]) -> None:
        self.edges = edges
        self.devices = devices
        self.watchers = watchers
        self.back_at = 0.0

    @property
    def since_s(self) -> float:
        """Redis 回来之后多少秒。"""
        return time.monotonic() - self.back_at

    async def watch_everybody(self) -> None:
        for watcher in self.watchers:
            for start in range(0, len(USERS), WATCH_CHUNK):
                await watch(watcher, *USERS[start : start + WATCH_CHUNK])

    async def ready(self) -> None:
        async def both() -> bool:
            return all([await asyncio.to_thread(server.is_ready) for server in self.edges])

        await eventually(both, PATIENCE_S)

    async def presence_is_right(self) -> None:
        """两个进程答的一样：人人在线，恰好一条，就是还连着的那条。"""
        everybody = dict.fromkeys((*USERS, *WATCHERS), 1)
        for server in self.edges:

            async def right(server: ServerProcess = server) -> bool:
                rows = await online(server)
                return {row["user_id"]: row["connection_count"] for row in rows} == everybody

            await eventually(right, PATIENCE_S)
            await self._check_details(server)

    async def _check_details(self, server: ServerProcess) -> None:
        async with api_of(server.base_url, ADMIN) as api:
            for one in self.devices:
                seen = (await api.get(f"/presence/users/{one.welcome['user_id']}")).json()
                ids = [each["connection_id"] for each in seen["connections"]]
                assert ids == [one.welcome["connection_id"]]

    async def send(self) -> str:
        """一条给每一个人，经 REST；收件人都真的存在。"""
        return await send(self.edges[0].base_url, ADMIN, [person(each) for each in USERS])

    async def arrives(self, message_id: str) -> None:
        """每一台都收到，都确认，发送者看得到。"""

        async def take(one: Device) -> None:
            while (await one.next_message(PATIENCE_S))["message_id"] != message_id:
                pass
            await one.ack(message_id)

        await asyncio.gather(*map(take, self.devices))

    async def delivered(self, message_id: str) -> None:
        async def all_delivered() -> bool:
            seen = await delivery(self.edges[1].base_url, ADMIN, message_id)
            return bool(seen["delivered"] == len(USERS))

        await eventually(all_delivered, PATIENCE_S)

    def everybody_is_connected(self) -> bool:
        return not any(one.reader.done() for one in (*self.devices, *self.watchers))

    async def answers(self) -> None:
        """没有 Redis，连接照样有人管。"""
        await asyncio.gather(*(one.round_trip() for one in self.devices))

    def nobody_seemed_away(self) -> bool:
        return all(
            all(is_online for is_online, _ in states(watcher, user_id))
            for watcher in self.watchers
            for user_id in USERS
        )

    async def all_watchers_see(self, is_online: bool) -> None:
        def seen() -> bool:
            return all(
                states(watcher, user_id)[-1][0] is is_online
                for watcher in self.watchers
                for user_id in RESTLESS
            )

        await eventually(seen, PATIENCE_S)


@pytest.mark.full_size
@pytest.mark.timeout(300)
@pytest.mark.parametrize("data", ["kept", "lost"])
async def test_con_4_twenty_seconds_without_redis(
    tmp_path: Path,
    private_redis_server: RedisServer,
    edges: Edges,
    data: str,
    show: Callable[[str], None],
) -> None:
    redis = private_redis_server
    await register_everybody(tmp_path)
    async with AsyncExitStack() as lines:
        places = [(edges[user_id % 2], person(user_id)) for user_id in USERS]
        devices = await lines.enter_async_context(crowd(places))
        watching = [(edges[user_id % 2], person(user_id)) for user_id in WATCHERS]
        watchers = await lines.enter_async_context(crowd(watching))
        town = Town(edges, devices, watchers)
        await town.presence_is_right()
        await town.watch_everybody()
        before = await town.send()
        await town.arrives(before)
        await town.delivered(before)

        if data == "kept":
            redis.stop()
        else:
            redis.kill()
            redis.wipe()
        stopped_at = time.monotonic()
        during = await town.send()
        await town.answers()
        await asyncio.sleep(stopped_at + AWAY_S - time.monotonic())  # 时间本身就是被测的东西
        assert town.everybody_is_connected()
        redis.start()
        town.back_at = time.monotonic()

        await town.ready()
        show(f"{data}: ready after {town.since_s:.1f} s")
        await town.presence_is_right()
        show(f"{data}: presence right after {town.since_s:.1f} s")
        await town.arrives(during)
        show(f"{data}: sent while away, with every device after {town.since_s:.1f} s")
        after = await town.send()
        await town.arrives(after)
        show(f"{data}: sent afterwards, with every device after {town.since_s:.1f} s")
        for message_id in (during, after):
            await town.delivered(message_id)
        assert town.everybody_is_connected()
        assert town.nobody_seemed_away()
        resyncs = {sum(f["type"] == "resync" for f in one.others) for one in devices}
        assert resyncs == {1 if data == "lost" else 0}  # E12：不是先后两帧

        for one in devices[: len(RESTLESS)]:
            await one.close()
        await town.all_watchers_see(False)
        async with crowd(places[: len(RESTLESS)]):
            await town.all_watchers_see(True)
        show(f"{data}: leaving and returning seen by watchers after {town.since_s:.1f} s")
