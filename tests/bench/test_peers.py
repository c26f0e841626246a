"""与别人比较：都做完同样的活，一帧不丢；少装了什么，说得清楚。从不断言谁快。"""

from __future__ import annotations

import importlib.util
import io
import shutil
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from meeting_push.errors import ConfigurationError
from meeting_push.redis.embedded import find_server
from meeting_push_bench.failure import BenchError
from meeting_push_bench.peers.contenders import (
    CONTENDERS,
    Contender,
    check_installed,
    redis_running,
)
from meeting_push_bench.peers.duel import QUICK_DUEL, DuelRun
from meeting_push_bench.peers.duel_client import COMPILER
from meeting_push_bench.peers.report import PeersReport, make_report, peers_tables, write_peers
from meeting_push_bench.peers.run import QUICK, PeersPlan, run_peers
from meeting_push_bench.progress import Steps
from meeting_push_bench.report import Heading
from meeting_push_bench.server_under_test import free_port

pytestmark = pytest.mark.timeout(180)
DUEL = msgspec.structs.replace(
    QUICK_DUEL,
    seconds=0.3,
    sockets=20,
    storm_sockets=20,
    users=10,
    unicast_per_s=100,
    ladder=(),
    settle_s=0,
)
PLAN = msgspec.structs.replace(QUICK, sockets=10, seconds=0.2, settle_s=0, duel=DUEL)
HERE = tuple(c for c in CONTENDERS if not c.needs or importlib.util.find_spec(c.needs))


@pytest.fixture(scope="module")
def report() -> PeersReport:
    return measured(PLAN)


def measured(plan: PeersPlan) -> PeersReport:
    found = run_peers(HERE, plan, Steps(Console(file=io.StringIO())))
    return make_report(Heading.now("peers", ""), plan, HERE, found)


def shown(report: PeersReport) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200)
    for table in peers_tables(report):
        console.print(table)
    return out.getvalue()


def test_everybody_delivers_every_frame(report: PeersReport) -> None:
    assert [run.contender for run in report.runs] == [contender.name for contender in HERE]
    assert all(run.lost == 0 for run in report.runs)
    assert all(run.fanout_per_s > 0 and run.unicast_per_s > 0 for run in report.runs)


def test_the_report_shows_everybody(report: PeersReport, tmp_path: Path) -> None:
    out = shown(report)
    folder = write_peers(report, tmp_path)
    page = (folder / "index.html").read_text()
    for contender in HERE:
        assert contender.name in out
        assert contender.about in page
    written = (folder / "result.json").read_bytes()
    assert msgspec.json.decode(written, type=PeersReport) == report


def test_a_missing_peer_says_how_to_install_it() -> None:
    absent = Contender("absent", "", "absent.py", needs="no_such_module_anywhere")
    with pytest.raises(BenchError, match=r"pip install .*requirements/peers\.txt"):
        check_installed((absent,))


def test_a_redis_given_by_a_relative_path_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = find_server().path
    monkeypatch.chdir(program.parent)
    with redis_running(tmp_path, "--port", str(free_port()), program=Path(program.name)) as pid:
        assert pid > 0


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="its client is compiled here")
def test_ours_as_three_processes_delivers_everything() -> None:
    plan = msgspec.structs.replace(
        PLAN, only="durable", duel=msgspec.structs.replace(DUEL, split=True)
    )
    report = measured(plan)
    [run] = report.duel
    assert lost_of(run) == dict.fromkeys(("single_lost", "paced_lost", "batch_lost"), 0)
    assert any("a process each" in note for note in report.notes)


def lost_of(run: DuelRun) -> dict[str, float]:
    return {name: figure for name, figure in run.figures.items() if name.endswith("_lost")}


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="its client is compiled here")
def test_the_duel_delivers_everything_and_says_who_is_absent(report: PeersReport) -> None:
    [run] = report.duel
    lost = lost_of(run)
    kinds = ("unicast", "fanout", "single", "paced", "batch")
    assert lost == dict.fromkeys((f"{kind}_lost" for kind in kinds), 0)
    assert run.figures["storm_per_s"] > 0
    assert run.figures["paced_p50_ms"] > 0
    assert "durable, one message a request" in shown(report)
    assert any("SENDS_PER_USER_PER_S=0" in note for note in report.notes)
    assert any("--centrifugo PATH" in note for note in report.notes)


def test_without_a_compiler_the_duel_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    report = measured(msgspec.structs.replace(PLAN, only="transient,durable"))
    assert not report.duel
    assert any(f"no {COMPILER} here" in note for note in report.notes)


def test_a_part_nobody_knows_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigurationError, match="others, transient, durable"):
        measured(msgspec.structs.replace(PLAN, only="transient,everything"))
