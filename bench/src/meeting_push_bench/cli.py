"""``meeting-push bench …``：每个 profile 一个命令。"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from meeting_push.errors import ConfigurationError

from .chaos.command import ChaosOrder
from .chaos.command import chaos as run_chaos_order
from .chaos.plan import FULL
from .chaos.plan import QUICK as CHAOS_QUICK
from .disturbance.cli import meeting_isolation_command, slow_consumer_command
from .edges import EDGES, ServerSource, run_edges
from .fuzz.cli import fuzz
from .load.cli import add_profiles
from .measured_cli import add_measured
from .peers.cli import peers
from .plan import QUICK, EdgesPlan
from .progress import Steps
from .queue import QUICK_QUEUE, QueuePlan, queue_table, run_queue
from .report import Heading, make_report, table, write_json
from .report_folder import Reports
from .server_under_test import existing_server, own_server

bench_app = typer.Typer(help="Load tests on this machine, with a report.", no_args_is_help=True)


add_profiles(bench_app)
bench_app.command()(peers)
bench_app.command()(fuzz)
add_measured(bench_app)
bench_app.command("slow-consumer")(slow_consumer_command)
bench_app.command("meeting-isolation")(meeting_isolation_command)


@bench_app.callback()
def bench() -> None:
    """Load tests on this machine, with a report.

    The servers it starts do not limit senders (MEETING_PUSH_SENDS_PER_USER_PER_S=0).
    """


@bench_app.command()
def edges(
    quick: Annotated[bool, typer.Option("--quick", help="Small: seconds, not minutes.")] = False,
    repeats: Annotated[int | None, typer.Option(min=1, max=20, help="Rounds; medians.")] = None,
    sockets: Annotated[int | None, typer.Option(min=1, max=19_000, help="Idle sockets.")] = None,
    url: Annotated[str | None, typer.Option(help="An existing server on this machine.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Its Redis.")] = None,
    pid: Annotated[int | None, typer.Option(help="Its process, for CPU and memory.")] = None,
    reports: Reports = Path("reports"),
) -> None:
    """Both edges of the user WebSocket: memory, CPU and frames/s, REST sends, latency."""
    plan = _plan(QUICK if quick else EdgesPlan(), repeats, sockets)
    names, source = _servers(url, redis_url, pid)
    console = Console(highlight=False)
    heading = Heading.now(_command(quick, repeats, sockets, url))
    steps = Steps(console)
    with steps.showing():
        runs = run_edges(names, plan, source, steps)
    report = make_report(heading, plan, runs)
    console.print(table(report))
    console.print(f"report: {write_json(report, reports)}", soft_wrap=True)


@bench_app.command()
def queue(
    quick: Annotated[bool, typer.Option("--quick", help="Small: about a second.")] = False,
    repeats: Annotated[int | None, typer.Option(min=1, max=20, help="Rounds; medians.")] = None,
    reports: Reports = Path("reports"),
) -> None:
    """The delivery queue alone: entries in and out per second, CPU of both sides."""
    plan = QUICK_QUEUE if quick else QueuePlan()
    plan = plan if repeats is None else msgspec.structs.replace(plan, repeats=repeats)
    options = [
        *(["--quick"] if quick else []),
        *(["--repeats", str(repeats)] if repeats is not None else []),
    ]
    console = Console(highlight=False)
    heading = Heading.now(" ".join(["meeting-push bench queue", *options]))
    steps = Steps(console)
    with steps.showing():
        report = run_queue(plan, heading, steps)
    console.print(queue_table(report))
    console.print(f"report: {write_json(report, reports)}", soft_wrap=True)


@bench_app.command()
def chaos(
    quick: Annotated[bool, typer.Option("--quick", help="One minute instead of five.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same plan of actions.")] = 1,
    database_url: Annotated[str | None, typer.Option(help="Empty database; SQLite.")] = None,
    reports: Reports = Path("reports"),
    keep: Annotated[Path | None, typer.Option(help="Keep the history in this file.")] = None,
    recheck: Annotated[Path | None, typer.Option(help="Only check this old history.")] = None,
) -> None:
    """Break everything at random, record what happened, prove that no promise was broken."""
    plan = msgspec.structs.replace(CHAOS_QUICK if quick else FULL, seed=seed)
    order = ChaosOrder(plan, database_url, reports, keep, recheck)
    command = " ".join(["meeting-push bench chaos", *(["--quick"] if quick else [])])
    heading = Heading.now(f"{command} --seed {seed}")
    if not run_chaos_order(order, heading, Console(highlight=False)):
        raise typer.Exit(1)


def _plan(plan: EdgesPlan, repeats: int | None, sockets: int | None) -> EdgesPlan:
    given = {"repeats": repeats, "idle_sockets": sockets}
    return msgspec.structs.replace(plan, **{k: v for k, v in given.items() if v is not None})


def _servers(
    url: str | None, redis_url: str | None, pid: int | None
) -> tuple[tuple[str, ...], ServerSource]:
    """要比较的名字，与各自的服务器；已有的服务器只有一种 edge，不知道是哪种。"""
    if url is None:
        return EDGES, own_server
    if redis_url is None:
        raise ConfigurationError("--url needs --redis-url: the fan-out is published there")
    existing = partial(existing_server, url, redis_url, pid)
    return ("existing",), lambda _: existing()


def _command(quick: bool, repeats: int | None, sockets: int | None, url: str | None) -> str:
    options = [
        *(["--quick"] if quick else []),
        *(["--repeats", str(repeats)] if repeats is not None else []),
        *(["--sockets", str(sockets)] if sockets is not None else []),
        *(["--url", url] if url is not None else []),
    ]
    return " ".join(["meeting-push bench edges", *options])
