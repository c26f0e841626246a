"""看整个系统此刻的数：有人看才算，大家共用，谁不该看了就完了。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from meeting_push.app import create_app
from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.websocket import ops_feed
from meeting_push.websocket.ops_feed import OpsFeed
from tests.support.edge_world import Client, World, serve_bare
from tests.support.eventually import eventually
from tests.support.people import Person, device
from tests.support.redis_server import RedisServer
from tests.support.running_node import running_node
from tests.support.server_process import TEST_JWT_SECRET


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now


class Scene:
    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = Clock()
        self.feed = world.manager.ops
        self.feed._clock = self.clock
        self.feed.provide(self._stats)

    async def _stats(self) -> bytes:
        return b'{"sockets":2}'

    def admin(self, user_id: int) -> contextlib.AbstractAsyncContextManager[Client]:
        return self.world.live(user_id, token=self.world.token(user_id, role="admin"))

    async def after(self, ms: int) -> None:
        self.clock.now += ms
        await self.feed.step()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    world = World()
    async with serve_bare(world):
        yield Scene(world)


async def watching(client: Client, every_s: int = 1) -> None:
    assert (await client.ask(type="ops_watch", every_s=every_s))["type"] == "ops_watch_result"


async def has_nothing(client: Client) -> bool:
    answer = await client.ask(type="heartbeat", timestamp=1)
    return bool(answer["type"] == "heartbeat_ack")


async def test_all_who_watch_share_one_snapshot(scene: Scene) -> None:
    async with scene.admin(1) as one, scene.admin(2) as two:
        await watching(one)
        await watching(two)
        await scene.feed.step()
        assert [(await each.read())["type"] for each in (one, two)] == ["ops", "ops"]
    assert scene.feed.snapshots == 1


async def test_nothing_is_computed_while_nobody_watches(scene: Scene) -> None:
    async with scene.admin(1) as client:
        await scene.after(5_000)
        await watching(client)
        await client.ask(type="ops_unwatch", request_id=1)
        await scene.after(5_000)
    assert scene.feed.snapshots == 0


async def test_everybody_has_his_own_interval(scene: Scene) -> None:
    async with scene.admin(1) as client:
        await watching(client, every_s=3)
        await scene.after(0)
        assert (await client.read())["type"] == "ops"
        await scene.after(1_000)
        await scene.after(1_000)
        assert scene.feed.snapshots == 1
        await scene.after(1_000)
        assert scene.feed.snapshots == 2


async def test_who_is_no_administrator_any_more_sees_no_more(scene: Scene) -> None:
    async with scene.admin(1) as client:
        await watching(client)
        await client.ask(type="refresh_token", token=scene.world.token(1), request_id=1)
        await scene.after(0)
        assert await has_nothing(client)
    assert (scene.feed.watching, scene.feed.snapshots) == (0, 0)


async def test_who_left_is_forgotten(scene: Scene) -> None:
    async with scene.admin(1) as client:
        await watching(client)
        assert scene.feed.watching == 1
    await eventually(lambda: scene.feed.watching == 0)


async def test_a_connection_that_is_behind_misses_frames(scene: Scene) -> None:
    async with scene.admin(1) as client:
        await watching(client)
        [connection] = scene.world.manager.get_user_connections(1)
        connection.blocked()
        await scene.after(0)
        connection.unblocked()
        assert await has_nothing(client)
    assert scene.world.manager.statistics().drops["not_clear"] == 1


async def test_the_interval_is_changed_once_a_second_at_most(scene: Scene) -> None:
    async with scene.admin(1) as client:
        await watching(client)
        error = await client.ask(type="ops_watch", every_s=2)
        assert (error["code"], error["temporary"]) == ("rate_limited", True)
        scene.clock.now += ops_feed.SHORTEST_MS
        await watching(client, every_s=2)
    await eventually(lambda: scene.feed.watching == 0)


async def test_not_too_many_watch(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_feed, "MAX_WATCHERS", 1)
    async with scene.admin(1) as one, scene.admin(2) as two:
        await watching(one)
        assert (await two.ask(type="ops_watch"))["code"] == "rate_limited"


@pytest.mark.parametrize("every_s", [0, 61, "2"])
async def test_an_interval_that_is_none_is_a_bad_frame(scene: Scene, every_s: object) -> None:
    async with scene.admin(1) as client:
        assert (await client.ask(type="ops_watch", every_s=every_s))["code"] == "invalid_frame"


async def test_the_loop_sleeps_until_somebody_watches() -> None:
    world = World()
    feed: OpsFeed = world.manager.ops
    running = asyncio.create_task(feed.run())
    try:
        async with (
            serve_bare(world),
            world.live(1, token=world.token(1, role="admin")) as client,
        ):
            await watching(client)
            first, second = await client.read(), await client.read()
            assert second["at"] - first["at"] >= ops_feed.SHORTEST_MS - 50
    finally:
        running.cancel()


async def test_the_frame_says_what_the_rest_call_says(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> None:
    async with running_node(tmp_path, embedded_redis_server.url, key_prefix) as node:
        token = AccessTokens(node.push.settings.auth, TEST_JWT_SECRET).issue(1, "admin", "", 600)
        admin = Person(1, "ann", token)
        async with (
            device(node.ws_url(1), admin) as page,
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app=create_app(node.push)), base_url="http://node"
            ) as api,
        ):
            await page.socket.send('{"type":"ops_watch","every_s":1}')
            await eventually(lambda: "ops" in [frame["type"] for frame in page.others])
            stats = (await api.get("/api/v1/stats", headers=admin.headers)).json()
        frame = next(frame for frame in page.others if frame["type"] == "ops")
        assert frame["stats"].keys() == stats.keys()
        assert frame["stats"]["sockets"] == stats["sockets"] == 1
