"""评估：等够了才触发，触发一次，恢复一次；评估的死了有人接着；Redis、SQL 不在也告诉人。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import msgspec
import pytest

from meeting_push.errors import UnavailableError
from meeting_push.monitoring.alerts.election import ROUND_S
from meeting_push.monitoring.alerts.model import AlertState
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.redis_service import RedisService
from meeting_push.storage.database import Database
from tests.support.postgres_server import PostgresServer
from tests.support.proxy_thread import ProxyThread, proxy_thread
from tests.support.redis_server import RedisServer

from .world import AT_ONCE, LEASE_S, Ear, Scene, Watcher


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def ear() -> Ear:
    return Ear()


async def test_it_fires_after_its_time_and_resolves_once(
    redis: RedisService, database: Database, scene: Scene, ear: Ear
) -> None:
    watcher = Watcher(scene, redis, database, ear)
    heats = [0, 11, 12, 13, 14, 9, 9]
    for heat in heats:
        scene.heat = heat
        await watcher.round()
        scene.later(5)
    assert ear.states == ["hot firing", "hot resolved"]
    firing, resolved = ear.heard
    assert firing.alert_id == resolved.alert_id
    assert (firing.value, firing.threshold, firing.summary.en) == (13, 10, "as hot as 13")
    found = await watcher.records.get(firing.alert_id)
    assert found
    assert (found.started_at, found.resolved_at) == (firing.started_at, resolved.resolved_at)
    assert await watcher.records.open() == []


async def test_what_does_not_last_does_not_fire(
    redis: RedisService, database: Database, scene: Scene, ear: Ear
) -> None:
    watcher = Watcher(scene, redis, database, ear)
    for heat in (11, 11, 9, 11, 11, 9):
        scene.heat = heat
        await watcher.round()
        scene.later(5)
    assert ear.heard == []


async def test_killed_while_pending_it_fires_all_the_same_once(
    redis: RedisService, database: Database, scene: Scene, ear: Ear
) -> None:
    first, second = (Watcher(scene, redis, database, ear) for _ in range(2))
    scene.heat = 11
    await first.round()
    await second.round()
    assert first.election.leads
    assert not second.election.leads
    scene.later(LEASE_S + 0.1)  # 第一个死了：租期过去
    await redis.lean.execute("DEL", redis.keys.alert_turn)
    await second.round()
    assert second.election.leads
    await first.round()  # 它没有死，只是停了一阵
    assert not first.election.leads
    assert ear.states == ["hot firing"]


async def test_a_successor_does_not_tell_again_and_resolves(
    redis: RedisService, database: Database, scene: Scene, ear: Ear
) -> None:
    first, second = (Watcher(scene, redis, database, ear, AT_ONCE) for _ in range(2))
    scene.heat = 11
    await first.round()
    await first.evaluator.stop()
    await second.round()
    assert ear.states == ["hot firing"]
    scene.heat = 0
    await second.round()
    assert ear.states == ["hot firing", "hot resolved"]


async def test_two_evaluators_at_once_fire_one_record(
    redis: RedisService, database: Database, scene: Scene, ear: Ear
) -> None:
    first, second = (Watcher(scene, redis, database, ear, AT_ONCE) for _ in range(2))
    await first.round()
    scene.heat = 11
    assert await first.election.ask()
    second.election.leads = True
    await redis.lean.execute("DEL", redis.keys.alert_turn)
    scene.later(LEASE_S + 1)
    await second.round()
    await redis.lean.execute("DEL", redis.keys.alert_turn)
    scene.later(LEASE_S + 1)
    await first.round()
    assert ear.states == ["hot firing"]
    assert len((await first.records.page("all", None, 10)).items) == 1


async def test_what_the_sink_did_not_take_is_told_by_the_successor(
    redis: RedisService, database: Database, scene: Scene, ear: Ear
) -> None:
    first, second = (Watcher(scene, redis, database, ear, AT_ONCE) for _ in range(2))
    scene.heat, ear.is_deaf = 11, True
    with pytest.raises(UnavailableError):
        await first.round()
    await first.evaluator.stop()
    ear.is_deaf = False
    await second.round()
    await second.round()
    assert ear.states == ["hot firing"]


async def test_a_silenced_alert_is_not_told(
    redis: RedisService, database: Database, scene: Scene, ear: Ear
) -> None:
    watcher = Watcher(scene, redis, database, ear, AT_ONCE)
    scene.heat = 11
    await watcher.round()
    (alert,) = ear.heard
    await watcher.records.silence(alert.alert_id, scene.now + 60_000)
    for heat in (0, 11, 11):
        scene.heat = heat
        scene.later(5)
        await watcher.round()
    assert ear.states == ["hot firing"]
    scene.later(60)
    await watcher.round()
    assert ear.states == ["hot firing", "hot firing"]


async def test_the_figures_say_what_fires_and_who_evaluates(
    redis: RedisService, database: Database, scene: Scene, ear: Ear
) -> None:
    first, second = (Watcher(scene, redis, database, ear, AT_ONCE) for _ in range(2))
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


# ── Redis、SQL 不在 ──────────────────────────────────────────────────────────


@pytest.fixture
def redis_line(private_redis_server: RedisServer) -> Iterator[ProxyThread]:
    with proxy_thread(private_redis_server.port) as line:
        yield line


@pytest.fixture
async def far_redis(redis_line: ProxyThread) -> AsyncIterator[RedisService]:
    url = f"redis://127.0.0.1:{redis_line.port}/0"
    service = RedisService(RedisAddress.parse(url), Keys("far:"), 1)
    await service.start()
    yield service
    await service.close()


@pytest.fixture
def sql_line(postgres_server: PostgresServer) -> Iterator[ProxyThread]:
    with proxy_thread(f"{postgres_server.directory}/.s.PGSQL.5432") as line:
        yield line


@pytest.fixture
async def far_database(sql_line: ProxyThread, postgres_url: str) -> AsyncIterator[Database]:
    name = urlsplit(postgres_url).path
    database = Database(f"postgresql://postgres@127.0.0.1:{sql_line.port}{name}?ssl=disable", 2)
    yield database
    await database.dispose()


async def test_without_redis_the_one_in_sql_goes_on(
    far_redis: RedisService,
    redis_line: ProxyThread,
    database: Database,
    scene: Scene,
    ear: Ear,
) -> None:
    first, second = (Watcher(scene, far_redis, database, ear, AT_ONCE) for _ in range(2))
    await first.round()
    await second.round()
    redis_line.refuse()
    scene.heat = 11
    for watcher in (second, first, second):
        await watcher.round()
    assert (first.election.leads, second.election.leads) == (True, False)
    assert ear.states == ["hot firing"]
    scene.later(LEASE_S + 1)
    await second.round()
    assert second.election.leads
    assert ear.states == ["hot firing"]


async def test_without_sql_it_is_told_and_recorded_later(
    redis: RedisService,
    far_database: Database,
    sql_line: ProxyThread,
    scene: Scene,
    ear: Ear,
) -> None:
    watcher = Watcher(scene, redis, far_database, ear, AT_ONCE)
    await watcher.round()
    sql_line.refuse()
    scene.heat = 11
    await watcher.round()
    assert ear.states == ["hot firing"]
    sql_line.release()
    await watcher.round()
    (row,) = await watcher.records.open()
    assert row.alert_id == ear.heard[0].alert_id
    await watcher.round()
    assert ear.states == ["hot firing"]


async def test_sql_that_hangs_does_not_keep_it_from_being_told(
    redis: RedisService,
    far_database: Database,
    sql_line: ProxyThread,
    scene: Scene,
    ear: Ear,
) -> None:
    watcher = Watcher(scene, redis, far_database, ear, AT_ONCE)
    await watcher.round()
    sql_line.hold()
    scene.heat = 11
    async with asyncio.timeout(ROUND_S):
        await watcher.round()
    assert ear.states == ["hot firing"]


async def test_redis_that_hangs_does_not_keep_it_from_being_told(
    far_redis: RedisService,
    redis_line: ProxyThread,
    database: Database,
    scene: Scene,
    ear: Ear,
) -> None:
    watcher = Watcher(scene, far_redis, database, ear, AT_ONCE)
    await watcher.round()
    redis_line.hold()
    scene.heat = 11
    async with asyncio.timeout(ROUND_S):
        await watcher.round()
    assert ear.states == ["hot firing"]


async def test_a_thousand_fire_at_once(
    redis: RedisService, database: Database, scene: Scene, ear: Ear
) -> None:
    by_room = msgspec.structs.replace(
        AT_ONCE, expression=msgspec.structs.replace(AT_ONCE.expression, by="room")
    )
    scene.rooms, scene.heat = 1_000, 11
    watcher = Watcher(scene, redis, database, ear, by_room)
    await watcher.round()
    assert len(ear.heard) == len(await watcher.records.open()) == 1_000
    scene.heat = 0
    await watcher.round()
    assert len(ear.heard) == 2_000
    assert await watcher.records.open() == []


async def test_what_came_and_went_without_sql_is_recorded_as_over(
    redis: RedisService,
    far_database: Database,
    sql_line: ProxyThread,
    scene: Scene,
    ear: Ear,
) -> None:
    watcher = Watcher(scene, redis, far_database, ear, AT_ONCE)
    await watcher.round()
    sql_line.refuse()
    for heat in (11, 0):
        scene.heat = heat
        await watcher.round()
    assert ear.states == ["hot firing", "hot resolved"]
    sql_line.release()
    await watcher.round()
    (row,) = (await watcher.records.page("resolved", None, 10)).items
    assert row.alert_id == ear.heard[0].alert_id
    assert await watcher.records.open() == []


async def test_without_both_it_goes_out(
    far_redis: RedisService,
    redis_line: ProxyThread,
    far_database: Database,
    sql_line: ProxyThread,
    scene: Scene,
    ear: Ear,
) -> None:
    first, second = (Watcher(scene, far_redis, far_database, ear, AT_ONCE) for _ in range(2))
    await first.round()
    await second.round()
    redis_line.refuse()
    sql_line.refuse()
    scene.heat = 11
    await first.round()
    await second.round()
    assert ear.states == ["hot firing"]


async def test_a_sibling_out_of_sight_does_not_resolve_its_alert(
    far_redis: RedisService,
    redis_line: ProxyThread,
    database: Database,
    ear: Ear,
) -> None:
    """规则按进程看；Redis 断了，别的进程的数没有了，不是好了。"""
    by_node = msgspec.structs.replace(
        AT_ONCE, expression=msgspec.structs.replace(AT_ONCE.expression, by="process")
    )
    hot, cool = Scene(heat=11), Scene()
    sibling = Watcher(hot, far_redis, database, ear, by_node)
    watcher = Watcher(cool, far_redis, database, ear, by_node)
    await sibling.reports.post()
    await watcher.round()
    assert [one.state for one in ear.heard] == [AlertState.FIRING]
    redis_line.refuse()
    await watcher.round()
    assert [one.state for one in ear.heard] == [AlertState.FIRING]
