"""评估：等够了才触发，触发一次，恢复一次；评估的死了有人接着；Redis、SQL 不在也告诉人。"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import msgspec
import pytest

from meeting_push.errors import UnavailableError
from meeting_push.monitoring.alerts import book
from meeting_push.monitoring.alerts.evaluator import ROUND_S
from meeting_push.monitoring.alerts.model import AlertState
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.redis_service import RedisService
from meeting_push.storage.database import Database
from tests.support.postgres_server import PostgresServer
from tests.support.proxy_thread import proxy_thread
from tests.support.redis_server import RedisServer

from .world import AT_ONCE, HOT, LEASE_S, FarScene, Scene


@pytest.fixture
def scene(redis: RedisService, database: Database) -> Scene:
    return Scene(redis=redis, database=database)


async def test_it_fires_after_its_time_and_resolves_once(scene: Scene) -> None:
    watcher = scene.watcher(HOT)
    heats = [0, 11, 12, 13, 14, 9, 9]
    for heat in heats:
        scene.heat = heat
        await watcher.round()
        scene.later(5)
    assert scene.ear.states == ["hot firing", "hot resolved"]
    firing, resolved = scene.ear.heard
    assert firing.alert_id == resolved.alert_id
    assert (firing.value, firing.threshold, firing.summary.en) == (13, 10, "as hot as 13")
    found = await watcher.records.get(firing.alert_id)
    assert found
    assert (found.started_at, found.resolved_at) == (firing.started_at, resolved.resolved_at)
    assert await watcher.records.open() == []


async def test_what_does_not_last_does_not_fire(scene: Scene) -> None:
    watcher = scene.watcher(HOT)
    for heat in (11, 11, 9, 11, 11, 9):
        scene.heat = heat
        await watcher.round()
        scene.later(5)
    assert scene.ear.heard == []


async def test_killed_while_pending_it_fires_all_the_same_once(scene: Scene) -> None:
    first, second = scene.watchers(HOT)
    scene.heat = 11
    await first.round()
    await second.round()
    assert first.election.leads
    assert not second.election.leads
    scene.later(LEASE_S + 0.1)  # 第一个死了：租期过去
    await scene.redis.lean.execute("DEL", scene.redis.keys.alert_turn)
    await second.round()
    assert second.election.leads
    await first.round()  # 它没有死，只是停了一阵
    assert not first.election.leads
    assert scene.ear.states == ["hot firing"]


async def test_a_successor_does_not_tell_again_and_resolves(scene: Scene) -> None:
    first, second = scene.watchers()
    scene.heat = 11
    await first.round()
    await first.evaluator.stop()
    await second.round()
    assert scene.ear.states == ["hot firing"]
    scene.heat = 0
    await second.round()
    assert scene.ear.states == ["hot firing", "hot resolved"]


async def test_two_evaluators_at_once_fire_one_record(scene: Scene) -> None:
    first, second = scene.watchers()
    await first.round()
    scene.heat = 11
    assert await first.election.ask()
    second.election.leads = True
    await scene.redis.lean.execute("DEL", scene.redis.keys.alert_turn)
    scene.later(LEASE_S + 1)
    await second.round()
    await scene.redis.lean.execute("DEL", scene.redis.keys.alert_turn)
    scene.later(LEASE_S + 1)
    await first.round()
    assert scene.ear.states == ["hot firing"]
    assert len((await first.records.page("all", None, 10)).items) == 1


async def test_what_the_sink_did_not_take_is_told_by_the_successor(scene: Scene) -> None:
    first, second = scene.watchers()
    scene.heat, scene.ear.is_deaf = 11, True
    with pytest.raises(UnavailableError):
        await first.round()
    await first.evaluator.stop()
    scene.ear.is_deaf = False
    await second.round()
    await second.round()
    assert scene.ear.states == ["hot firing"]


async def test_a_silenced_alert_is_not_told(scene: Scene) -> None:
    watcher = scene.watcher()
    scene.heat = 11
    await watcher.round()
    (alert,) = scene.ear.heard
    await watcher.records.silence(alert.alert_id, scene.now + 60_000)
    for heat in (0, 11, 11):
        scene.heat = heat
        scene.later(5)
        await watcher.round()
    assert scene.ear.states == ["hot firing"]
    scene.later(60)
    await watcher.round()
    assert scene.ear.states == ["hot firing", "hot firing"]


async def test_the_figures_say_what_fires_and_who_evaluates(scene: Scene) -> None:
    first, second = scene.watchers()
    scene.heat = 11
    await first.round()
    await second.round()
    for watcher, count in ((first, 1), (second, 0)):
        figures = {
            (one.name, one.labels.get("severity")): one.value for one in watcher.evaluator.samples()
        }
        assert figures["alerts_firing", "warning"] == count
        assert figures["alert_evaluator", None] == count
    assert [one.rule for one in first.evaluator.firing() or ()] == ["hot"]
    assert second.evaluator.firing() is None


async def test_who_hangs_in_its_round_no_longer_says_what_fires(scene: Scene) -> None:
    """否则看门狗的心跳照旧，而没有人在评估。"""
    watcher = scene.watcher()
    scene.heat = 11
    await watcher.round()
    assert watcher.evaluator.firing()
    scene.later(LEASE_S + 1)
    assert watcher.evaluator.firing() is None


# ── Redis、SQL 不在 ──────────────────────────────────────────────────────────


@pytest.fixture
async def far(
    private_redis_server: RedisServer, postgres_server: PostgresServer, postgres_url: str
) -> AsyncIterator[FarScene]:
    socket, name = f"{postgres_server.directory}/.s.PGSQL.5432", urlsplit(postgres_url).path
    with proxy_thread(private_redis_server.port) as redis_line, proxy_thread(socket) as sql_line:
        url = f"redis://127.0.0.1:{redis_line.port}/0"
        redis = RedisService(RedisAddress.parse(url), Keys("far:"), 1)
        await redis.start()
        url = f"postgresql://postgres@127.0.0.1:{sql_line.port}{name}?ssl=disable"
        database = Database(url, 2)
        yield FarScene(redis=redis, database=database, redis_line=redis_line, sql_line=sql_line)
        await database.dispose()
        await redis.close()


async def test_without_redis_the_one_in_sql_goes_on(far: FarScene) -> None:
    first, second = far.watchers()
    await first.round()
    await second.round()
    far.redis_line.refuse()
    far.heat = 11
    for watcher in (second, first, second):
        await watcher.round()
    assert (first.election.leads, second.election.leads) == (True, False)
    assert far.ear.states == ["hot firing"]
    far.later(LEASE_S + 1)
    await second.round()
    assert second.election.leads
    assert far.ear.states == ["hot firing"]


async def test_without_sql_it_is_told_and_recorded_later(far: FarScene) -> None:
    watcher = far.watcher()
    await watcher.round()
    far.sql_line.refuse()
    far.heat = 11
    await watcher.round()
    assert far.ear.states == ["hot firing"]
    far.sql_line.release()
    await watcher.round()
    (row,) = await watcher.records.open()
    assert row.alert_id == far.ear.heard[0].alert_id
    await watcher.round()
    assert far.ear.states == ["hot firing"]


async def test_sql_that_hangs_does_not_keep_it_from_being_told(far: FarScene) -> None:
    watcher = far.watcher()
    await watcher.round()
    far.sql_line.hold()
    far.heat = 11
    async with asyncio.timeout(ROUND_S):
        await watcher.round()
    assert far.ear.states == ["hot firing"]


async def test_redis_that_hangs_does_not_keep_it_from_being_told(far: FarScene) -> None:
    watcher = far.watcher()
    await watcher.round()
    far.redis_line.hold()
    far.heat = 11
    async with asyncio.timeout(ROUND_S):
        await watcher.round()
    assert far.ear.states == ["hot firing"]


async def test_a_thousand_fire_at_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "STORE_S", 50)  # 记得慢的下一轮再记，而这里不测快慢
    by_room = msgspec.structs.replace(
        AT_ONCE, expression=msgspec.structs.replace(AT_ONCE.expression, by="room")
    )
    scene.rooms, scene.heat = 1_000, 11
    watcher = scene.watcher(by_room)
    await watcher.round()
    assert len(scene.ear.heard) == len(await watcher.records.open()) == 1_000
    scene.heat = 0
    await watcher.round()
    assert len(scene.ear.heard) == 2_000
    assert await watcher.records.open() == []


async def test_what_came_and_went_without_sql_is_recorded_as_over(far: FarScene) -> None:
    watcher = far.watcher()
    await watcher.round()
    far.sql_line.refuse()
    for heat in (11, 0):
        far.heat = heat
        await watcher.round()
    assert far.ear.states == ["hot firing", "hot resolved"]
    far.sql_line.release()
    await watcher.round()
    (row,) = (await watcher.records.page("resolved", None, 10)).items
    assert row.alert_id == far.ear.heard[0].alert_id
    assert await watcher.records.open() == []


async def test_without_both_it_goes_out(far: FarScene) -> None:
    first, second = far.watchers()
    await first.round()
    await second.round()
    far.redis_line.refuse()
    far.sql_line.refuse()
    far.heat = 11
    await first.round()
    await second.round()
    assert far.ear.states == ["hot firing"]


async def test_a_sibling_out_of_sight_does_not_resolve_its_alert(far: FarScene) -> None:
    """规则按进程看；Redis 断了，别的进程的数没有了，不是好了。"""
    by_node = msgspec.structs.replace(
        AT_ONCE, expression=msgspec.structs.replace(AT_ONCE.expression, by="process")
    )
    sibling = dataclasses.replace(far, heat=11).watcher(by_node)
    watcher = far.watcher(by_node)
    await sibling.reports.post()
    await watcher.round()
    assert [one.state for one in far.ear.heard] == [AlertState.FIRING]
    far.redis_line.refuse()
    await watcher.round()
    assert [one.state for one in far.ear.heard] == [AlertState.FIRING]
