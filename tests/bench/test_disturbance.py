"""比较“有捣乱者与没有”的压测：跑得完，数字都在，没有一条消息丢失；从不断言速度。"""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from meeting_push_bench.disturbance.figures import Disturbance
from meeting_push_bench.disturbance.meeting_isolation import meeting_isolation
from meeting_push_bench.disturbance.plan import QUICK
from meeting_push_bench.disturbance.report import Profile, disturbance_table, make_report
from meeting_push_bench.disturbance.slow_consumer import slow_consumer
from meeting_push_bench.progress import Steps
from meeting_push_bench.report import Heading
from meeting_push_bench.server_under_test import own_server

pytestmark = pytest.mark.timeout(180)
PLAN = msgspec.structs.replace(QUICK, phase_s=2)


def run(profile: Profile) -> Disturbance:
    with own_server("native", drain_window_s=0) as server:
        return profile("native", server, PLAN, Steps(Console(quiet=True)))


def shown(profile: str, run: Disturbance) -> str:
    out = io.StringIO()
    report = make_report(Heading.now(profile, ""), PLAN, [run])
    Console(file=out, width=120).print(disturbance_table(report))
    return out.getvalue()


def assert_all_measured(run: Disturbance) -> None:
    assert sorted(phase.mode for phase in run.phases) == ["with", "with", "without", "without"]
    for phase in run.phases:
        assert phase.latencies.keys() == {"durable", "transient"}
        assert all(latency.count > 0 for latency in phase.latencies.values())


def test_con_1_a_slow_consumer_is_closed_and_misses_nothing() -> None:
    outcome = run(slow_consumer)
    assert_all_measured(outcome)
    assert [one.missing for one in outcome.slow] == [0, 0]
    assert all(one.sent > 0 for one in outcome.slow)
    assert "closed 4001" in shown("slow-consumer", outcome)


def test_iso_1_a_flooded_meeting_is_measured_against_a_quiet_one() -> None:
    outcome = run(meeting_isolation)
    assert_all_measured(outcome)
    assert all(flood.segments > 0 and flood.frames > 0 for flood in outcome.floods)
    assert all(flood.refused == 0 for flood in outcome.floods)
    assert "segments/s" in shown("meeting-isolation", outcome)
