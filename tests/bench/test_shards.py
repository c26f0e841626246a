"""一台与 Cluster 轮流量：真的跑得起来，算出来的照量出来的。"""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from meeting_push.errors import ConfigurationError
from meeting_push.redis.embedded import find_server
from meeting_push_bench.load.redis_nodes import RedisNodes, redis_nodes
from meeting_push_bench.load.redis_probe import redis_probe
from meeting_push_bench.load.shards import (
    QUICK_SHARDS,
    Arm,
    ShardsPlan,
    ShardsReport,
    run_shards,
    shards_table,
    slower,
)
from meeting_push_bench.progress import Steps
from meeting_push_bench.report import Heading
from meeting_push_bench.target import Target

HEADING = Heading.now("shards", "meeting-push bench shards")


def arm(masters: int, server_us: float, *redis_us: float) -> Arm:
    return Arm(
        masters=masters,
        full_load_per_s=1_000,
        recorded_per_s=900,
        server_us=server_us,
        redis_us=list(redis_us),
    )


def report_of(*rounds: list[Arm]) -> ShardsReport:
    return ShardsReport(
        **{name: getattr(HEADING, name) for name in HEADING.__struct_fields__},
        plan=ShardsPlan(rounds=len(rounds)),
        rounds=list(rounds),
    )


def test_on_own_cores_the_busiest_process_is_the_limit() -> None:
    spread = arm(3, 200, 40, 50, 30)
    assert spread.own_cores_per_s == 5_000
    assert spread.redis_only_per_s == 20_000


def test_each_round_is_compared_with_its_own_standalone() -> None:
    """轮与轮之间机器快慢不同：先比，再取中位数。"""
    report = report_of(
        [arm(0, 100, 50), arm(1, 105, 50), arm(3, 110, 20, 20, 20)],
        [arm(0, 200, 90), arm(1, 210, 90), arm(3, 220, 40, 40, 40)],
    )
    assert slower(report) == {
        "Cluster of 1": pytest.approx(0.05),
        "Cluster of 3": pytest.approx(0.10),
    }
    shown = io.StringIO()
    Console(file=shown, width=160).print(shards_table(report))
    assert "165 (110…220)" in shown.getvalue()


@pytest.fixture(scope="module")
def server() -> None:
    try:
        find_server()
    except ConfigurationError as error:
        pytest.skip(error.message)


@pytest.fixture
def three_masters(server: None) -> Iterator[RedisNodes]:
    with redis_nodes(3) as nodes:
        yield nodes


@pytest.mark.timeout(240)
async def test_the_figures_of_a_cluster_are_those_of_all_its_masters(
    three_masters: RedisNodes,
) -> None:
    assert len(three_masters.pids) == 3
    target = Target(
        host="127.0.0.1",
        port=1,
        redis_url=three_masters.url,
        jwt_secret="x",
        jwt_audience="x",
        partitions=3,
    )
    async with redis_probe(target) as probe:
        use = await probe.use()
        assert use.queued == 0
        assert use.memory_bytes > 3 * 1024 * 1024
        assert await probe.waiting(range(40)) == 0
        assert await probe.listening_nodes() == 0


@pytest.mark.usefixtures("server")
@pytest.mark.timeout(600)
def test_one_redis_and_a_cluster_are_measured_in_turn() -> None:
    plan = ShardsPlan(rounds=1, masters=1, load=QUICK_SHARDS.load)
    report = run_shards(plan, HEADING, Steps(Console(file=io.StringIO())))
    [[alone, cluster]] = report.rounds
    assert (alone.masters, cluster.masters) == (0, 1)
    assert all(one.recorded_per_s > 0 and one.server_us > 0 for one in (alone, cluster))
    assert [len(one.redis_us) for one in (alone, cluster)] == [1, 1]
