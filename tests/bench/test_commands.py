"""写进报告的命令能再做一次同样的测量：每个命令，每个选项。"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from rich.console import Console
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from meeting_push_bench import command_line
from meeting_push_bench.cli import bench_app
from meeting_push_bench.load.plan import PROFILES
from meeting_push_bench.progress import Steps

LOAD = (
    "--sockets 7 --seconds 2.5 --rate 11 --recipients 3 --messages 4 --gateways 2"
    " --load-processes 2 --redis-url redis://127.0.0.1:7 --database-url sqlite:///x.db"
    " --set connects_per_s=4 --set connects_burst=5 --check",
    "--url http://127.0.0.1:1 --ws-url http://127.0.0.1:2 --redis-url unix:///r --pid 1 --pid 2",
)
#: 命令 → 选项的几种给法，每个值都不是缺省的。
CASES: dict[str, Sequence[str]] = {
    "edges": (
        "--quick --repeats 2 --sockets 30 --sse",
        "--url http://127.0.0.1:8000 --redis-url redis://127.0.0.1 --pid 4",
    ),
    "queue": ("--quick --repeats 2",),
    "retries": ("--quick --scheduled 12",),
    "mailbox-memory": ("--quick",),
    "string-ids": ("--quick",),
    "tables": ("--quick --rows 7000 --database-url sqlite:///x.db",),
    "peers": (
        "--quick --rounds 2 --sockets 9 --seconds 1.5",
        f"--centrifugo {sys.executable} --only others,transient",
        "--database-url sqlite:///x.db",
        f"--split --redis-server {sys.executable}",
    ),
    "shards": ("--quick --rounds 2 --masters 5",),
    "flush": ("--quick --users 3 --messages 4",),
    "rolling": ("--quick",),
    "kills": ("--quick --messages 9 --every 1.5 --with-redis",),
    "slow-consumer": ("--quick --rounds 2",),
    "meeting-isolation": ("--quick --rounds 2",),
    "siege": ("--quick --seconds 3.5 --only A1,A5",),
    "fuzz": ("--quick --cases 5 --seed 3 --edge asgi",),
    "pair": (
        "--profile 1k --set metrics=false --rounds 2 --seconds 3.5",
        "--redis-url redis://127.0.0.1:7",
    ),
    "chaos": (
        "--quick --seed 4 --redis sentinel --database-url sqlite:///x.db --recheck h.jsonl",
        "--redis cluster --pairs 70 --seconds 12.5 --every 2.5",
    ),
    **dict.fromkeys(PROFILES, LOAD),
}
#: 命令 → 它把计划交给谁；没有列出的是负载测试。
SEAMS = {
    **{name: f"cli.run_{name.replace('-', '_')}" for name in CASES if name not in PROFILES},
    "slow-consumer": "cli.run_disturbance",
    "meeting-isolation": "cli.run_disturbance",
    "chaos": "cli.run_chaos_order",
    "pair": "load.cli.measure_pair",
}
#: 与数字无关的，和不出报告的（``fuzz --case``）。
NOT_PRINTED = {"--reports", "--keep", "--case"}

Planned = tuple[str, list[object]]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Sequence[str]], Planned]:
    """命令行 → （会写进报告的命令，交出去的计划）；什么也不跑。"""

    def run(words: Sequence[str]) -> Planned:
        printed: list[str] = []
        plan: list[object] = []

        def stop(*arguments: object) -> None:
            plan.extend(one for one in arguments if not isinstance(one, Steps | Console))
            raise typer.Exit

        heading = SimpleNamespace(now=lambda _bench, command: printed.append(command))
        monkeypatch.setattr(command_line, "Heading", heading)
        seam = SEAMS.get(words[0], "load.cli.run_profile")
        monkeypatch.setattr(f"meeting_push_bench.{seam}", stop)
        outcome = CliRunner().invoke(bench_app, [*words, "--reports", str(tmp_path)])
        assert outcome.exit_code == 0, outcome.output
        [command] = printed
        return command, plan

    return run


@pytest.mark.parametrize(
    ("command", "options"),
    [(command, options) for command, several in CASES.items() for options in ("", *several)],
)
def test_the_command_of_a_report_makes_the_same_plan_again(
    planned: Callable[[Sequence[str]], Planned], command: str, options: str
) -> None:
    printed, plan = planned([command, *options.split()])
    words = shlex.split(printed)
    assert words[:3] == ["meeting-push", "bench", command]
    assert sorted(words[3:]) == sorted(options.split())
    assert planned(words[2:]) == (printed, plan)


def test_every_option_of_every_command_was_tried() -> None:
    group = get_command(bench_app)
    assert isinstance(group, TyperGroup)
    offered = {
        name: {parameter.opts[0] for parameter in command.params} - NOT_PRINTED
        for name, command in group.commands.items()
        if name != "compare"  # 不测量
    }
    tried = {
        name: {word for options in several for word in options.split() if word.startswith("--")}
        for name, several in CASES.items()
    }
    assert tried == offered


def test_a_report_never_repeats_a_password(
    planned: Callable[[Sequence[str]], Planned],
) -> None:
    given = ["1k", "--redis-url", "redis://:hunter2@x", "--database-url=pg://x?password=hunter2"]
    assert planned(given)[0] == "meeting-push bench 1k --redis-url … --database-url …"
