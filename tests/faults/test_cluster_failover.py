"""Redis Cluster 的一个主在负载下没有了、槽在负载下搬走：收下的一条不丢，谁也不重启，几秒之内
又推送。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from meeting_push.redis.slot_map import slot_of
from tests.support.clusters import ClusterServer, ClusterSite, running_cluster
from tests.support.eventually import eventually
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import find_redis7
from tests.support.server_process import ServerProcess

from .test_failover import (
    BACK_WITHIN_S,
    QUICK,
    RECIPIENTS,
    Town,
    Traffic,
    kill,
    listening,
    publish,
    steps_until,
)

pytestmark = pytest.mark.timeout(500)

PARTITIONS: Final = 6
#: 负载之下搬走的槽：各人的，与队列的一个分区的。
MOVING: Final = [str(one.user_id) for one in RECIPIENTS[:8]] + ["q0"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSite]:
    binary = find_redis7()
    if binary is None:
        pytest.skip("no redis-server >= 7 on PATH")
    directory = tmp_path_factory.mktemp("cluster-failover")
    yield from running_cluster(ClusterSite(binary, directory, replicas=1, node_timeout_ms=3_000))


@pytest.fixture
def town(
    site: ClusterSite, postgres_server: PostgresServer, tmp_path: Path, key_prefix: str
) -> Iterator[Town]:
    site.whole()
    url = postgres_server.create_database()
    settings = {**QUICK, "key_prefix": key_prefix, "queue_partitions": PARTITIONS}
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(
                ServerProcess(
                    tmp_path, redis_url=site.url, database_url=url, role=role, settings=settings
                )
            )
            for role in ("api", "gateway", "worker")
        ]
        yield Town(*servers)
    postgres_server.drop_database(url)


def hang(server: ClusterServer) -> Callable[[], object]:
    """不再醒来：醒来的会把积着的命令当作主做完，见 ``docs/operations.md``。"""
    server.pause()

    def replace() -> None:
        server.kill()
        server.start()

    return replace


def of(site: ClusterSite, master: ClusterServer) -> list[int]:
    """键在这个主上的人。"""
    return [one.user_id for one in RECIPIENTS if site.owner_of(slot_of(str(one.user_id))) is master]


@pytest.mark.parametrize("fault", [kill, hang], ids=["killed", "hung"])
async def test_dlv_1_a_master_of_a_cluster_that_is_gone_under_load_loses_nothing(
    site: ClusterSite,
    town: Town,
    fault: Callable[[ClusterServer], Callable[[], object]],
    show: Callable[[str], None],
) -> None:
    traffic, broken = Traffic(), asyncio.Event()
    pids = [server.pid for server in town.servers]
    dead = site.owner_of(slot_of(str(RECIPIENTS[0].user_id)))
    his = of(site, dead)
    slot = slot_of(str(his[0]))

    def received() -> int:
        return sum(len(traffic.got.get(one, ())) for one in his)

    async with listening(town, traffic):
        publishing = asyncio.create_task(publish(town, traffic, broken))
        await broken.wait()
        mend = fault(dead)
        await asyncio.to_thread(site.promoted, dead, slot)
        before = received()
        back = await steps_until(lambda: received() > before, BACK_WITHIN_S)
        mend()
        await publishing
        await eventually(lambda: traffic.missing == 0, 200)
    show(f"{fault.__name__}: {traffic.accepted} sent, {traffic.missing} missing, back in {back} s")
    assert all(len(ids) == len(set(ids)) for ids in traffic.got.values())
    assert pids == [server.pid for server in town.servers]
    assert "loop_died" not in town.log
    await eventually(town.all_ready, 60)


async def test_dlv_1_slots_that_move_under_load_lose_nothing(
    site: ClusterSite, town: Town, show: Callable[[str], None]
) -> None:
    traffic, broken = Traffic(), asyncio.Event()
    async with listening(town, traffic):
        publishing = asyncio.create_task(publish(town, traffic, broken))
        await broken.wait()
        for tag in MOVING:
            here = site.owner_of(slot_of(tag))
            there = next(one for one in site.masters if one is not here)
            await asyncio.to_thread(site.move_slot, slot_of(tag), there)
        await publishing
        await eventually(lambda: traffic.missing == 0, 200)
    show(f"moved {len(MOVING)} slots: {traffic.accepted} sent, {traffic.missing} missing")
    assert all(len(ids) == len(set(ids)) for ids in traffic.got.values())
    assert "loop_died" not in town.log
    await eventually(town.all_ready, 60)
