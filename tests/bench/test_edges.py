"""压测工具：数字量得对，报告完整；从不断言速度。"""

from __future__ import annotations

import io
import math
import os
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from meeting_push.errors import ConfigurationError
from meeting_push.monitoring.latency import LatencyHistogram
from meeting_push.protocol.envelope import frame_key, peek
from meeting_push_bench.failure import BenchError
from meeting_push_bench.load import worker
from meeting_push_bench.load.crowd import Tally
from meeting_push_bench.load.edges import SSE, run_edges
from meeting_push_bench.load.edges_report import QUICK, EdgeFigures, EdgesReport, edges_table, flat
from meeting_push_bench.load.orders import Leave, Left
from meeting_push_bench.load.publisher import stamped_frame
from meeting_push_bench.load.residents import Residents
from meeting_push_bench.load.team import hands
from meeting_push_bench.load_process import LoadProcess, shared_count
from meeting_push_bench.progress import Steps, silent
from meeting_push_bench.report import Heading, write_json
from meeting_push_bench.sampler import cpu_seconds, memory_use
from meeting_push_bench.server_under_test import EDGES, own_server
from meeting_push_bench.target import Target, loopback_address

#: 小测量启动两个服务器；机器忙时光导入就要十秒。
pytestmark = pytest.mark.timeout(180)

Latencies = st.lists(st.integers(0, 2**40), min_size=1, max_size=200)
NOWHERE = Target(
    host="127.0.0.1",
    port=1,
    redis_url="redis://127.0.0.1:1",
    jwt_secret="a secret of a server that does not exist",
    jwt_audience="meeting-push",
)


def recorded(values: list[int]) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for value in values:
        histogram.record(value)
    return histogram


# ── 直方图 ──────────────────────────────────────────────────────────────────


@given(Latencies, st.floats(0.1, 100))
def test_a_percentile_is_within_one_percent(values: list[int], percent: float) -> None:
    exact = sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]
    assert recorded(values).percentile(percent) == pytest.approx(exact, rel=0.01, abs=0)


@given(Latencies, Latencies)
def test_merging_is_recording_everything_in_one(first: list[int], second: list[int]) -> None:
    assert recorded(first).merge(recorded(second)) == recorded(first + second)


@given(Latencies)
def test_a_histogram_survives_the_pipe(values: list[int]) -> None:
    packed = msgspec.msgpack.encode(recorded(values))
    assert msgspec.msgpack.decode(packed, type=LatencyHistogram) == recorded(values)


def test_an_empty_histogram_has_no_percentiles() -> None:
    with pytest.raises(ValueError, match="empty"):
        LatencyHistogram().percentile(50)


def test_a_negative_latency_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        LatencyHistogram().record(-1)


# ── 采样 ────────────────────────────────────────────────────────────────────


def test_cpu_seconds_count_the_work_done() -> None:
    before, used = cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() - used < 0.1:
        pass
    assert 0.08 <= cpu_seconds(os.getpid()) - before <= 1


def test_memory_use_sees_what_was_allocated() -> None:
    before = memory_use(os.getpid())
    held = b"x" * (32 * 1024 * 1024)
    after = memory_use(os.getpid())
    assert after.pss - before.pss >= len(held) * 0.9
    assert after.rss >= after.pss


def test_a_vanished_process_can_not_be_measured() -> None:
    with pytest.raises(BenchError, match="can not be measured"):
        cpu_seconds(2**22 + 1)  # 大于 Linux 的 PID_MAX_LIMIT


# ── 负载 ────────────────────────────────────────────────────────────────────


def test_a_stamped_frame_takes_the_fast_path_and_says_when() -> None:
    before = time.monotonic_ns()
    frame = stamped_frame(160, before)
    assert len(frame) == 160
    assert peek(frame) is not None
    assert int(msgspec.json.decode(frame)["title"]) == before
    assert frame_key(frame) is None  # seq 0：不占 seq，不去重，推一次就算


def test_a_frame_too_small_for_its_fields_is_refused() -> None:
    with pytest.raises(BenchError, match="at least"):
        stamped_frame(50, 0)


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1:8000", "http://example.com", "http://[::1]:8000", "x"]
)
def test_only_this_machine_is_ever_loaded(url: str) -> None:
    with pytest.raises(ConfigurationError, match="loopback"):
        loopback_address(url)


def test_a_loopback_url_names_the_target() -> None:
    assert loopback_address("http://127.0.0.1:8000") == ("127.0.0.1", 8000)


def test_a_message_of_an_earlier_section_that_comes_again_is_not_counted() -> None:
    """重连会把没来得及确认的再送一次。"""
    tally = Tally(memoryview(bytearray(8)).cast("q"))
    earlier = time.monotonic_ns()
    begun = tally.seen(1, afresh=True)
    now = time.monotonic_ns()
    tally.note(earlier, now)
    tally.note(now, now)
    seen = tally.seen(1)
    assert (begun.received, seen.received, seen.latency.count) == (0, 1, 1)


async def test_a_failed_connect_is_reported_not_measured() -> None:
    with hands(1) as [hand], pytest.raises(BenchError, match="0 of 1 connected"):
        await Residents(NOWHERE, hand).connect([1], heartbeat_interval_s=1)


def test_a_dead_load_process_is_an_error_not_a_hang() -> None:
    load = LoadProcess(worker.main, (shared_count(), 0))
    os.kill(load.pid, 9)
    with pytest.raises(BenchError, match="died"):
        load.ask(Leave(), Left, 30, silent)
    load.stop()


def test_stopping_leaves_no_load_process_behind() -> None:
    with LoadProcess(worker.main, (shared_count(), 0)) as load:
        assert load.ask(Leave(), Left, 30, silent).lost == 0
        pid = load.pid
    assert not Path(f"/proc/{pid}").exists()


# ── 一次完整的小测量 ────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def quick_report() -> EdgesReport:
    heading = Heading.now("edges", "meeting-push bench edges --quick")
    runs = run_edges(EDGES, QUICK, own_server, Steps(Console(file=io.StringIO())))
    return EdgesReport.of(heading, QUICK, runs)


def test_a_quick_run_measures_both_edges(quick_report: EdgesReport) -> None:
    assert [run.edge for run in quick_report.runs] == ["native", "asgi"]


def test_every_figure_of_a_quick_run_is_there(quick_report: EdgesReport) -> None:
    for run in quick_report.runs:
        missing = {"idle", "fanout", "backlog", "rest", "durable"} - {
            n.split(".")[0] for n in flat(run)
        }
        assert not missing
        assert all(value > 0 for value in flat(run).values()), run


def test_a_quick_run_delivers_every_frame(quick_report: EdgesReport) -> None:
    assert {f.frames for run in quick_report.runs for f in (run.fanout, run.backlog)} == {
        QUICK.fanout_frames
    }
    expected = QUICK.latency_rate_per_s * QUICK.latency_duration_s
    assert {run.durable and run.durable.messages for run in quick_report.runs} == {expected}


def test_websocket_beside_sse_counts_every_frame_of_both() -> None:
    plan = msgspec.structs.replace(QUICK, sending=False)
    runs = run_edges(("native", SSE), plan, own_server, Steps(Console(file=io.StringIO())))
    assert [run.edge for run in runs] == ["native", "sse"]
    for run in runs:
        assert (run.rest, run.durable) == (None, None)
        assert run.fanout.frames == run.backlog.frames == plan.fanout_frames
        assert all(value > 0 for value in flat(run).values()), run


async def test_a_stream_that_is_refused_is_counted_with_its_status(tmp_path: Path) -> None:
    with own_server("native") as server, hands(1) as [hand]:
        stranger = msgspec.structs.replace(server.target, jwt_secret="x" * 32)
        with pytest.raises(BenchError, match="HTTP 401"):
            await Residents(stranger, hand).connect([1], heartbeat_interval_s=0, dialect="sse")


def test_the_ratio_is_the_first_edge_over_the_second(quick_report: EdgesReport) -> None:
    native, asgi = (quick_report.medians[edge] for edge in EDGES)
    name = "fanout.frames_per_s"
    assert quick_report.ratios[name] == pytest.approx(native[name] / asgi[name])


def test_the_written_report_reads_back(quick_report: EdgesReport, tmp_path: Path) -> None:
    path = write_json(quick_report, tmp_path / "reports")
    assert msgspec.json.decode(path.read_bytes(), type=EdgesReport) == quick_report


def test_the_report_holds_no_secret(quick_report: EdgesReport) -> None:
    assert "secret" not in msgspec.json.encode(quick_report).decode()


def test_the_table_shows_a_row_for_every_headline(quick_report: EdgesReport) -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(edges_table(quick_report))
    for headline in ("memory per idle socket", "CPU per delivered frame", "REST sends/s", "P99"):
        assert headline in out.getvalue()


def test_medians_are_taken_over_the_rounds(quick_report: EdgesReport) -> None:
    run = quick_report.runs[0]
    runs = [with_frames_per_s(run, value) for value in (1.0, 100.0, 3.0)]
    report = EdgesReport.of(Heading.now("edges", ""), QUICK, runs)
    assert report.medians["native"]["fanout.frames_per_s"] == 3.0
    assert report.ratios == {}


def with_frames_per_s(run: EdgeFigures, value: float) -> EdgeFigures:
    fanout = msgspec.structs.replace(run.fanout, frames_per_s=value)
    return msgspec.structs.replace(run, fanout=fanout)
