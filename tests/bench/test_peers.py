"""与别人比较：都做完同样的活，一帧不丢；少装了什么，说得清楚。从不断言谁快。"""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from meeting_push_bench.failure import BenchError
from meeting_push_bench.peers.contenders import CONTENDERS, Contender, check_installed
from meeting_push_bench.peers.report import PeersReport, make_report, peers_table, write_peers
from meeting_push_bench.peers.run import QUICK, run_peers
from meeting_push_bench.progress import Steps
from meeting_push_bench.report import Heading

pytestmark = pytest.mark.timeout(180)
PLAN = msgspec.structs.replace(QUICK, sockets=10, seconds=0.2, settle_s=0)
HERE = tuple(c for c in CONTENDERS if not c.needs or importlib.util.find_spec(c.needs))


@pytest.fixture(scope="module")
def report() -> PeersReport:
    runs = run_peers(HERE, PLAN, Steps(Console(file=io.StringIO())))
    return make_report(Heading.now("peers", ""), PLAN, HERE, runs)


def test_everybody_delivers_every_frame(report: PeersReport) -> None:
    assert [run.contender for run in report.runs] == [contender.name for contender in HERE]
    assert all(run.lost == 0 for run in report.runs)
    assert all(run.fanout_per_s > 0 and run.unicast_per_s > 0 for run in report.runs)


def test_the_report_shows_everybody(report: PeersReport, tmp_path: Path) -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(peers_table(report))
    folder = write_peers(report, tmp_path)
    page = (folder / "index.html").read_text()
    for contender in HERE:
        assert contender.name in out.getvalue()
        assert contender.about in page
    written = (folder / "result.json").read_bytes()
    assert msgspec.json.decode(written, type=PeersReport) == report


def test_a_missing_peer_says_how_to_install_it() -> None:
    absent = Contender("absent", "", "absent.py", needs="no_such_module_anywhere")
    with pytest.raises(BenchError, match=r"pip install .*requirements/peers\.txt"):
        check_installed((absent,))
