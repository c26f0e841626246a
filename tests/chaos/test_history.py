"""历史：写下的读得回来；残缺的不当作完整的；报告与命令。"""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from meeting_push_bench.chaos.command import ChaosOrder, chaos
from meeting_push_bench.chaos.history import AnyEvent, HistoryWriter, read_history
from meeting_push_bench.chaos.plan import QUICK
from meeting_push_bench.chaos.report import ChaosReport
from meeting_push_bench.cli import bench_app
from meeting_push_bench.failure import BenchError
from meeting_push_bench.report import Heading
from tests.chaos.story import Story


def written(events: list[AnyEvent], path: Path) -> Path:
    writer = HistoryWriter(path)
    for event in events:
        writer.write(event)
    writer.close()
    return path


def kept_promises() -> list[AnyEvent]:
    story = Story()
    message_id = story.send(1)
    phone = story.connect(1)
    story.receive(phone, message_id, live=False)
    story.ack(phone, message_id)
    return story.end()


def broken_promises() -> list[AnyEvent]:
    story = Story()
    message_id = story.send(1)
    story.receive(story.connect(1), message_id, live=False)
    story.record(1, message_id)
    return story.end()


def recheck(history: Path, directory: Path) -> tuple[bool, str]:
    order = ChaosOrder(QUICK, None, directory / "reports", None, history)
    out = io.StringIO()
    held = chaos(order, Heading.now("chaos", "test"), Console(file=out, width=120))
    return held, out.getvalue()


def test_a_written_history_reads_back(tmp_path: Path) -> None:
    events = kept_promises()
    assert read_history(written(events, tmp_path / "h")) == events


def test_a_history_without_its_end_is_refused(tmp_path: Path) -> None:
    path = written(kept_promises()[:-1], tmp_path / "h")
    with pytest.raises(BenchError, match="not complete"):
        read_history(path)


def test_a_torn_history_is_refused(tmp_path: Path) -> None:
    path = written(kept_promises(), tmp_path / "h")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(BenchError, match="can not read"):
        read_history(path)


def test_rechecking_a_clean_history_holds(tmp_path: Path) -> None:
    held, text = recheck(written(kept_promises(), tmp_path / "h"), tmp_path)
    assert held
    assert "held" in text


def test_rechecking_a_broken_history_names_the_rule_and_shows_the_slice(tmp_path: Path) -> None:
    held, text = recheck(written(broken_promises(), tmp_path / "h"), tmp_path)
    assert not held
    assert "confirmation: delivered, but no device of the user ever sent an ack" in text
    assert '"event":"received"' in text


def test_the_command_exits_with_1_when_a_promise_was_broken(tmp_path: Path) -> None:
    codes = [
        CliRunner()
        .invoke(
            bench_app,
            [
                *("chaos", "--recheck", str(written(events, tmp_path / name))),
                *("--reports", str(tmp_path)),
            ],
        )
        .exit_code
        for name, events in (("kept", kept_promises()), ("broken", broken_promises()))
    ]
    assert codes == [0, 1]


def test_the_json_report_reads_back(tmp_path: Path) -> None:
    recheck(written(broken_promises(), tmp_path / "h"), tmp_path)
    [path] = (tmp_path / "reports").iterdir()
    report = msgspec.json.decode(path.read_bytes(), type=ChaosReport)
    assert report.broken_rules == {"confirmation": 1}
    assert report.accounts == {"delivered": 1}
