"""压测 flush、retries、rolling、kills 等：跑得完，数字都在，没有一条丢失；从不断言速度。"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from meeting_push_bench.cli import bench_app
from meeting_push_bench.measured import MeasuredReport

pytestmark = pytest.mark.timeout(180)


def measured(tmp_path: Path, *command: str) -> MeasuredReport:
    """命令行写下的报告。"""
    outcome = CliRunner().invoke(bench_app, [*command, "--quick", "--reports", str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    [path] = tmp_path.iterdir()
    assert path.name.startswith(f"bench-{command[0]}-")
    assert str(path) in outcome.output.replace("\n", "")
    return msgspec.json.decode(path.read_bytes(), type=MeasuredReport)


def test_everybody_who_returns_gets_everything_once_and_in_order(tmp_path: Path) -> None:
    report = measured(tmp_path, "flush", "--users", "5")
    assert report.command == "meeting-push bench flush --quick --users 5"
    assert report.plan["users"] == 5
    for nothing in ("missing", "repeated", "disordered", "closed"):
        assert report.value(nothing) == 0
    assert report.value("recorded_s") >= report.value("elapsed_s") > 0
    assert report.value("memory_peak") > 0
    for path in ("durable", "transient"):
        for phase in ("before", "flush", "after"):
            assert report.value(f"{path}_{phase}_p95_ms") > 0


def test_every_retry_is_claimed_moved_and_expired(tmp_path: Path) -> None:
    report = measured(tmp_path, "retries", "--scheduled", "1200")
    for name in ("scheduled", "claims_alone", "moves_alone", "claims_beside", "moves_beside"):
        assert report.value(f"{name}_per_s") > 0
    for name in ("claims_recorded", "all_due", "expired"):
        assert report.value(f"{name}_per_s") > 0
    assert report.value("memory_each") > 0


def test_an_id_in_a_mailbox_with_ten_others_takes_at_most_a_hundred_bytes(tmp_path: Path) -> None:
    report = measured(tmp_path, "mailbox-memory")
    assert 26 < report.value("mailbox_id") <= 100
    assert 26 < report.value("log_id") <= 100
    assert report.value("recipient") <= 200
    assert report.value("full_average") > 26


def test_what_a_killed_server_had_accepted_arrives_once(tmp_path: Path) -> None:
    report = measured(tmp_path, "kills", "--messages", "300")
    assert report.value("kills") > 0
    assert report.value("accepted") == report.value("ids") == 300
    for nothing in ("missing", "twice", "stray"):
        assert report.value(nothing) == 0


def test_nodes_restart_one_after_the_other_and_no_application_notices(tmp_path: Path) -> None:
    report = measured(tmp_path, "rolling")
    for nothing in ("missing", "twice", "failed"):
        assert report.value(nothing) == 0
    assert report.value("accepted") == 100
    assert report.value("sends") > 0
