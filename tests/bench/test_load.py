"""负载测试工具：开环的账算得对，分得下，报告完整，比得出好坏；从不断言速度。"""

from __future__ import annotations

import asyncio
import io
import resource
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from meeting_push_bench.cli import bench_app
from meeting_push_bench.failure import BenchError
from meeting_push_bench.load.cli import parse_settings
from meeting_push_bench.load.compare import changes, differences
from meeting_push_bench.load.orders import Post, Posted
from meeting_push_bench.load.page import write_result
from meeting_push_bench.load.plan import PROFILES, LoadPlan
from meeting_push_bench.load.poster import post
from meeting_push_bench.load.result import Figure, Result, Row, read_result
from meeting_push_bench.load.run import run_on
from meeting_push_bench.load.sending import backlog_growth_s
from meeting_push_bench.load.servers import Options, Servers, servers
from meeting_push_bench.load.steady_publisher import keep_pace
from meeting_push_bench.load.svg_chart import line_chart
from meeting_push_bench.load.team import (
    gateways_for,
    load_processes_for,
    most_per_gateway,
    shares,
)
from meeting_push_bench.open_files import SPARE_FILES
from meeting_push_bench.progress import Steps, silent
from meeting_push_bench.report import Heading
from meeting_push_bench.target import Target

#: 小测量启动真的服务器；机器忙时光导入就要十秒。
pytestmark = pytest.mark.timeout(180)

HARD_LIMIT = 20_000
TINY: dict[str, LoadPlan] = {
    "hold": msgspec.structs.replace(
        PROFILES["10k"], sockets=20, accounts=10, seconds=1, rate_per_s=100, load_processes=2
    ),
    "fanout": msgspec.structs.replace(PROFILES["fanout"], sockets=20, seconds=1),
    "unicast": msgspec.structs.replace(
        PROFILES["unicast"], sockets=20, rate_per_s=200, step_s=0.5, max_steps=2
    ),
    "durable-batched": msgspec.structs.replace(
        PROFILES["durable-batched"],
        sockets=20,
        accounts=20,
        seconds=1,
        calibrate_s=0.5,
        messages_per_request=5,
    ),
    "storm": msgspec.structs.replace(
        PROFILES["storm"], sockets=20, bystanders=5, seconds=1, rate_per_s=100, load_processes=1
    ),
}


# ── 分给几个进程 ────────────────────────────────────────────────────────────


def test_a_hundred_thousand_sockets_need_six_processes_on_each_side() -> None:
    assert load_processes_for(100_000, HARD_LIMIT) == 6
    assert gateways_for(100_000, HARD_LIMIT) == 6


@given(st.integers(1, 200_000), st.integers(600, 100_000), st.integers(1, 8))
def test_no_load_process_holds_more_than_its_limit_allows(
    sockets: int, hard_limit: int, at_least: int
) -> None:
    parts = shares(range(sockets), load_processes_for(sockets, hard_limit, at_least))
    assert max(map(len, parts)) <= hard_limit - SPARE_FILES
    assert len(parts) >= at_least
    assert [item for part in parts for item in part] == list(range(sockets))


def test_a_limit_that_would_need_hundreds_of_processes_is_refused() -> None:
    with pytest.raises(BenchError, match="at least 600"):
        load_processes_for(1_000, 599)


def test_a_single_server_that_can_not_hold_them_all_is_refused_before_it_starts(
    tmp_path: Path,
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        pytest.skip("open files are not limited here")
    outcome = CliRunner().invoke(
        bench_app, ["smoke", "--sockets", str(hard), "--reports", str(tmp_path)]
    )
    assert isinstance(outcome.exception, BenchError)
    assert outcome.exception.message.startswith(f"{hard} sockets need")
    assert "servers" not in outcome.output


@pytest.mark.parametrize("profile", ["smoke", "flush", "peers", "fuzz", "queue", "slow-consumer"])
def test_reports_that_can_not_be_written_are_refused_before_it_starts(
    profile: str, tmp_path: Path
) -> None:
    taken = tmp_path / "file"
    taken.touch()
    outcome = CliRunner().invoke(bench_app, [profile, "--reports", str(taken)])
    assert outcome.exit_code == 2
    assert "--reports" in outcome.output


@given(st.integers(1, 200_000), st.integers(1, 12))
def test_a_gateway_is_allowed_more_than_its_average_share(sockets: int, gateways: int) -> None:
    assert sockets / gateways <= most_per_gateway(sockets, gateways) <= sockets


# ── 被测的设置 ───────────────────────────────────────────────────────────────


def test_a_setting_is_given_to_the_server_under_test() -> None:
    assert parse_settings(["CONNECTS_PER_S=400", "log_level=a=b"]) == {
        "connects_per_s": "400",
        "log_level": "a=b",
    }


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--set", "connects_per_s"], "expected NAME=VALUE"),
        (["--set", "conects_per_s=1"], "is not a setting"),
        (["--set", "jwt_secret=x"], "is set by the bench"),
        (["--set", "connects_per_s=1", "--url", "http://127.0.0.1:1"], "not with --url"),
    ],
)
def test_a_setting_that_can_not_be_given_is_refused(
    arguments: list[str], reason: str, tmp_path: Path
) -> None:
    outcome = CliRunner().invoke(bench_app, ["smoke", *arguments, "--reports", str(tmp_path)])
    assert outcome.exit_code == 2
    assert reason in outcome.output


def test_a_value_the_server_refuses_is_said_by_name() -> None:
    with (
        pytest.raises(BenchError, match="connects_per_s"),
        servers(0, Options(settings={"connects_per_s": "often"})),
    ):
        pass


# ── 开环 ────────────────────────────────────────────────────────────────────


async def test_a_late_publisher_still_counts_from_the_intended_time() -> None:
    stamps: list[int] = []

    def send(batch: Sequence[int]) -> None:
        if not stamps:
            time.sleep(0.1)  # 堵住发布者自己：后面的都晚了，预定的时刻不变
        stamps.extend(batch)

    late_ns = await keep_pace(1_000, 200, send, silent)
    gaps = {later - earlier for earlier, later in pairwise(stamps)}
    assert gaps == {1_000_000}
    assert len(stamps) == 200
    assert late_ns >= 90_000_000


@asynccontextmanager
async def http_server(answers: Iterator[tuple[float, int]]) -> AsyncIterator[int]:
    """每个请求等 ``answers`` 说的那么久，再答那个状态码。"""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b'{"message_id":"01ARZ3NDEKTSV4RRFFQ69G5FAV","recipient_count":1}'
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
                wait_s, status = next(answers)
                await asyncio.sleep(wait_s)
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(body)))
                writer.write(body)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def post_order(port: int, connections: int, rate_per_s: float, seconds: float) -> Post:
    return Post(
        target=Target(
            host="127.0.0.1", port=port, redis_url="redis://x", jwt_secret="x", jwt_audience="x"
        ),
        token="t",
        recipient_ids=[1],
        recipients_per_message=1,
        messages_per_request=1,
        duration_s=seconds,
        connections=connections,
        rate_per_s=rate_per_s,
    )


async def posted(answers: Iterator[tuple[float, int]], connections: int = 1) -> Posted:
    async with http_server(answers) as port:
        return await post(post_order(port, connections, rate_per_s=100, seconds=0.3), silent)


def after_a_stall() -> Iterator[tuple[float, int]]:
    yield 0.25, 202
    while True:
        yield 0.0, 202


async def test_a_stalled_server_is_charged_to_everybody_who_waited() -> None:
    answer = await posted(after_a_stall())
    assert answer.latency.count == answer.recipients == 30
    # 只慢了一次；闭环的负载会说 29 条都很快
    assert answer.latency.percentile(50) >= 100_000


async def test_refusals_are_counted_and_do_not_stop_the_load() -> None:
    answer = await posted(iter([(0.0, 503), (0.0, 202)] * 15))
    assert answer.answers == {"503": 15, "202": 15}
    assert len(answer.message_ids) == 15


async def test_no_answer_is_counted_and_the_connection_opened_again() -> None:
    refused = await post(post_order(1, 2, rate_per_s=50, seconds=0.2), silent)
    assert refused.answers == {"no_answer": 10}


def rows(*backlog: int) -> list[Row]:
    return [
        Row(at_s=at, sockets=1, sent=1_000 + more, received=1_000, received_per_s=100)
        for at, more in enumerate(backlog)
    ]


def test_a_growing_backlog_is_told_in_seconds_of_load() -> None:
    assert backlog_growth_s(rows(0, 0, 100, 100, 200, 200, 300, 300), 100) == 2.0
    assert backlog_growth_s(rows(300, 300, 200, 200, 100, 100, 0, 0), 100) == 0.0
    assert backlog_growth_s(rows(5), 100) == 0.0


# ── 一次完整的小测量 ────────────────────────────────────────────────────────


def steps() -> Steps:
    return Steps(Console(file=io.StringIO()))


def by_name(result: Result) -> dict[str, Figure]:
    return {figure.name: figure for figure in result.figures}


@pytest.fixture(scope="module")
def roles() -> Iterator[Servers]:
    """按角色分开的一套：api、worker、一个网关；各场景共用。"""
    with servers(1, Options()) as started:
        yield started


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_run_loses_nothing(name: str, roles: Servers) -> None:
    result = run_on(roles, TINY[name], Heading.now(name, ""), steps())
    figures = by_name(result)
    assert figures["lost"].value == 0
    assert figures["connected"].value == 100
    assert figures["closed"].value == 0
    assert result.errors == {}
    assert result.servers == {"api": 1, "worker": 1, "gateway": 1}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """命令行写下的报告。"""
    reports = tmp_path_factory.mktemp("reports")
    options = ("--sockets", "10", "--seconds", "3", "--rate", "100", "--recipients", "5")
    outcome = CliRunner().invoke(bench_app, ["smoke", *options, "--reports", str(reports)])
    assert outcome.exit_code == 0, outcome.output
    [folder] = reports.iterdir()
    assert str(folder / "index.html") in outcome.output.replace("\n", "")
    return folder


def test_smoke_delivers_and_records_everything(smoke: Path) -> None:
    figures = by_name(read_result(smoke))
    assert figures["sent"].value == 300
    assert figures["lost"].value == 0
    assert figures["recorded"].value == 100
    assert figures["cpu.server"].value > 0
    assert figures["memory_per_socket"].value > 0


def test_durable_counts_sends_up_to_the_recorded_ack(roles: Servers) -> None:
    figures = by_name(run_on(roles, TINY["durable-batched"], Heading.now("x", ""), steps()))
    assert 0 < figures["recorded_per_s"].value <= figures["capacity_per_s"].value
    assert figures["recorded"].value == 100


def test_a_report_is_a_page_with_its_plots(smoke: Path) -> None:
    names = {path.name for path in smoke.iterdir()}
    assert {"result.json", "index.html", "latency.svg", "cpu.svg", "memory.svg"} <= names
    page = (smoke / "index.html").read_text()
    assert page.count("<svg") == len([name for name in names if name.endswith(".svg")])
    assert "POST to socket P95" in page


def test_a_report_holds_no_secret(smoke: Path) -> None:
    assert "secret" not in (smoke / "result.json").read_text()


def test_a_result_compared_with_itself_is_the_same(smoke: Path) -> None:
    outcome = CliRunner().invoke(bench_app, ["compare", str(smoke), str(smoke / "result.json")])
    assert outcome.exit_code == 0, outcome.output
    assert "same" in outcome.output
    assert not {"better", "worse"} & set(outcome.output.split())


def test_a_missed_goal_is_said(smoke: Path, tmp_path: Path) -> None:
    late = Figure(name="p95_ms", label="P95 of it", value=20, unit="ms", better="lower", goal=10)
    result = msgspec.structs.replace(read_result(smoke), figures=[late])
    assert result.missed == [late]
    assert "missed: P95 of it" in (write_result(result, tmp_path) / "index.html").read_text()


# ── 比较 ────────────────────────────────────────────────────────────────────


def test_better_and_worse_follow_the_direction_of_a_figure(smoke: Path) -> None:
    whole = read_result(smoke)
    before = [
        Figure(name="p95_ms", label="", value=10, better="lower"),
        Figure(name="rate", label="", value=100, better="higher"),
        Figure(name="p50_ms", label="", value=5, better="lower"),
        Figure(name="users", label="", value=5),
    ]
    after = [msgspec.structs.replace(f, value=f.value * 1.3) for f in before[:2]]
    after += [msgspec.structs.replace(before[2], value=5.2), before[3]]
    found = changes(
        msgspec.structs.replace(whole, figures=before),
        msgspec.structs.replace(whole, figures=after),
        noise=0.1,
    )
    assert [change.direction for change in found] == ["worse", "better", "same", ""]


def test_unlike_runs_are_pointed_out(smoke: Path) -> None:
    before = read_result(smoke)
    after = msgspec.structs.replace(before, bench="1k", plan=PROFILES["1k"])
    told = " ".join(differences(before, after))
    assert "different profiles" in told
    assert "sockets" in told


def test_something_else_is_not_a_result(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(BenchError, match="not a result"):
        read_result(tmp_path)


# ── 报告的零件 ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lines", [{}, {"a<b": [(0.0, 1.0), (1.0, 2.0)]}, {"flat": [(1.0, 0.0)]}])
@pytest.mark.parametrize("log_y", [True, False])
def test_a_chart_is_well_formed(lines: dict[str, list[tuple[float, float]]], log_y: bool) -> None:
    svg = line_chart("P95 & P99", "s", "ms", lines, log_y=log_y)
    assert ElementTree.fromstring(svg).tag.endswith("svg")
