"""``meeting-push bench …``：每个 profile 一个命令（负载测试的在 ``load/cli.py``）。"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from meeting_push.errors import ConfigurationError

from .chaos.command import ChaosOrder
from .chaos.command import chaos as run_chaos_order
from .chaos.plan import FULL, RedisKind
from .chaos.plan import QUICK as QUICK_CHAOS
from .command_line import Quick, Reports, changed, heading_of
from .disturbance.meeting_isolation import meeting_isolation as meeting_isolation_profile
from .disturbance.plan import QUICK as QUICK_DISTURBANCE
from .disturbance.plan import DisturbancePlan
from .disturbance.report import Profile, disturbance_table, run_disturbance
from .disturbance.slow_consumer import slow_consumer as slow_consumer_profile
from .flush.plan import QUICK_FLUSH, FlushPlan
from .flush.run import run_flush
from .fuzz.plan import QUICK as QUICK_FUZZ
from .fuzz.plan import FuzzPlan
from .fuzz.report import fuzz_table, run_case_alone, run_fuzz
from .kills import QUICK_KILLS, KillsPlan, run_kills
from .load.cli import add_profiles
from .load.edges import SSE, ServerSource, run_edges
from .load.edges_report import QUICK, EdgesPlan, EdgesReport, edges_table
from .load.shards import QUICK_SHARDS, ShardsPlan, run_shards, shards_table, slower
from .mailbox_memory import QUICK_MAILBOX_MEMORY, MailboxMemoryPlan, run_mailbox_memory
from .measured import measured_table
from .peers.contenders import CONTENDERS
from .peers.report import make_report, peers_tables, write_peers
from .peers.run import QUICK as QUICK_PEERS
from .peers.run import PeersPlan, run_peers
from .progress import Steps
from .queue import QUICK_QUEUE, QueuePlan, queue_table, run_queue
from .report import Heading, show, write_json
from .retries.lab import QUICK_RETRIES, RetriesPlan
from .retries.run import run_retries
from .rolling.run import QUICK_ROLLING, RollingPlan, run_rolling
from .server_under_test import EDGES, ExistingServer, own_server
from .siege.orders import QUICK_SIEGE, SiegePlan
from .siege.run import run_siege
from .string_ids import QUICK_STRING_IDS, StringIdsPlan, run_string_ids
from .tables import QUICK_TABLES, TablesPlan, run_tables

Rounds = Annotated[int | None, typer.Option(min=1, max=20, help="Rounds; medians.")]
REPORTS = Path("reports")
R = TypeVar("R", bound=Heading)

bench_app = typer.Typer(help="Load tests on this machine, with a report.", no_args_is_help=True)
add_profiles(bench_app)


@bench_app.callback()
def bench() -> None:
    """Load tests on this machine, with a report.

    The servers it starts do not limit senders (MEETING_PUSH_SENDS_PER_USER_PER_S=0).
    """


# ── 一种东西的几个数字 ──────────────────────────────────────────────────────


@bench_app.command()
def edges(
    context: typer.Context,
    quick: Quick = False,
    repeats: Rounds = None,
    sockets: Annotated[int | None, typer.Option(min=1, max=19_000, help="Idle sockets.")] = None,
    url: Annotated[str | None, typer.Option(help="An existing server on this machine.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Its Redis.")] = None,
    pid: Annotated[int | None, typer.Option(help="Its process, for CPU and memory.")] = None,
    sse: Annotated[bool, typer.Option("--sse", help="WebSocket beside SSE, no sending.")] = False,
    reports: Reports = REPORTS,
) -> None:
    """Both edges of the user WebSocket: memory, CPU and frames/s, REST sends, latency."""
    plan = changed(QUICK if quick else EdgesPlan(), repeats=repeats, idle_sockets=sockets)
    names, source = _servers(url, redis_url, pid)
    if sse:
        names, plan = (names[0], SSE), changed(plan, sending=False)
    _report(
        context,
        reports,
        lambda heading, steps: EdgesReport.of(heading, plan, run_edges(names, plan, source, steps)),
        edges_table,
    )


@bench_app.command()
def queue(
    context: typer.Context,
    quick: Quick = False,
    repeats: Rounds = None,
    reports: Reports = REPORTS,
) -> None:
    """The delivery queue alone: entries in and out per second, CPU of both sides."""
    plan = changed(QUICK_QUEUE if quick else QueuePlan(), repeats=repeats)
    _report(context, reports, partial(run_queue, plan), queue_table)


@bench_app.command()
def retries(
    context: typer.Context,
    quick: Quick = False,
    scheduled: Annotated[int | None, typer.Option(min=1, help="Entries that are not due.")] = None,
    reports: Reports = REPORTS,
) -> None:
    """Retries claimed, due entries moved, expiry swept, beside 1,000,000 scheduled entries."""
    plan = changed(QUICK_RETRIES if quick else RetriesPlan(), scheduled=scheduled)
    _report(context, reports, partial(run_retries, plan), measured_table)


@bench_app.command("string-ids")
def string_ids(context: typer.Context, quick: Quick = False, reports: Reports = REPORTS) -> None:
    """Sends a second where ids of people are UUIDs, beside integers."""
    plan = QUICK_STRING_IDS if quick else StringIdsPlan()
    _report(context, reports, partial(run_string_ids, plan), measured_table)


@bench_app.command("mailbox-memory")
def mailbox_memory(
    context: typer.Context, quick: Quick = False, reports: Reports = REPORTS
) -> None:
    """Bytes of Redis for each offline recipient of each message."""
    plan = QUICK_MAILBOX_MEMORY if quick else MailboxMemoryPlan()
    _report(context, reports, partial(run_mailbox_memory, plan), measured_table)


@bench_app.command()
def shards(
    context: typer.Context,
    quick: Quick = False,
    rounds: Rounds = None,
    masters: Annotated[
        int | None, typer.Option(min=2, max=9, help="Of the largest Cluster.")
    ] = None,
    reports: Reports = REPORTS,
) -> None:
    """Durable messages on one Redis, a Cluster of one master and of three, in turn."""
    plan = changed(QUICK_SHARDS if quick else ShardsPlan(), rounds=rounds, masters=masters)
    report = _report(context, reports, partial(run_shards, plan), shards_table)
    for name, share in slower(report).items():
        typer.echo(f"{name}: CPU of the server {share:+.1%} beside one Redis")


@bench_app.command()
def peers(
    context: typer.Context,
    quick: Quick = False,
    rounds: Rounds = None,
    sockets: Annotated[int | None, typer.Option(min=1, max=19_000, help="Of each.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.5, help="Of each measurement.")] = None,
    centrifugo: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Its binary, for its rows.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="Of others,transient,durable.")] = None,
    database_url: Annotated[
        str | None, typer.Option(help="Of ours in the durable rows: an empty database; SQLite.")
    ] = None,
    split: Annotated[
        bool, typer.Option("--split", help="Ours in the durable rows: a process for each role.")
    ] = False,
    redis_server: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Of the duel; the embedded.")
    ] = None,
    reports: Reports = REPORTS,
) -> None:
    """Ours, a hand-written manager, python-socketio, bare picows, Centrifugo: the same work."""
    plan = QUICK_PEERS if quick else PeersPlan()
    duel = changed(plan.duel, rounds=rounds, sockets=sockets, seconds=seconds)
    duel = changed(duel, split=split, redis_server=str(redis_server) if redis_server else None)
    plan = changed(plan, rounds=rounds, sockets=sockets, seconds=seconds, duel=duel)
    plan = changed(plan, centrifugo=str(centrifugo) if centrifugo else None, only=only)
    plan.parts()  # 说错了就不开始
    console = Console(highlight=False)
    heading = heading_of(context)
    measured = run_peers(CONTENDERS, plan, Steps(console), database_url)
    report = make_report(heading, plan, CONTENDERS, measured)
    for table in peers_tables(report):
        console.print(table)
    for note in report.notes:
        console.print(note, markup=False, soft_wrap=True)
    folder = write_peers(report, reports)
    console.print(f"report: {folder / 'index.html'}", soft_wrap=True)


@bench_app.command()
def tables(
    context: typer.Context,
    quick: Quick = False,
    rows: Annotated[
        int | None, typer.Option(min=1_000, max=100_000_000, help="Rows of recipients.")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="An empty database, empty again afterwards; SQLite.")
    ] = None,
    reports: Reports = REPORTS,
) -> None:
    """Inbox, counts, statistics, sweeps, reconciler, start: a large table beside a small one."""
    plan = changed(QUICK_TABLES if quick else TablesPlan(), rows=rows)
    report = _report(context, reports, partial(run_tables, plan, database_url), measured_table)
    for name, lines in report.plans.items():
        typer.echo("\n  ".join([name, *lines]))
    if any(figure.met is False for figure in report.figures):
        raise typer.Exit(1)


# ── 出事的时候别人怎样 ──────────────────────────────────────────────────────


@bench_app.command()
def flush(
    context: typer.Context,
    quick: Quick = False,
    users: Annotated[int | None, typer.Option(min=1, max=10_000, help="Users who return.")] = None,
    messages: Annotated[
        int | None, typer.Option(min=1, max=1_000, help="Messages in the mailbox of each.")
    ] = None,
    reports: Reports = REPORTS,
) -> None:
    """1,000 users return at once to 1,000 messages each: how fast, and what others notice."""
    plan = changed(QUICK_FLUSH if quick else FlushPlan(), users=users, messages=messages)
    _report(context, reports, partial(run_flush, plan), measured_table)


@bench_app.command()
def rolling(context: typer.Context, quick: Quick = False, reports: Reports = REPORTS) -> None:
    """Three nodes restart one after the other under load: what senders and applications notice."""
    plan = QUICK_ROLLING if quick else RollingPlan()
    _report(context, reports, partial(run_rolling, plan), measured_table)


@bench_app.command()
def kills(
    context: typer.Context,
    quick: Quick = False,
    messages: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="How many.")] = None,
    every: Annotated[float | None, typer.Option(min=0.5, help="Seconds between kills.")] = None,
    with_redis: Annotated[bool | None, typer.Option(help="Its embedded Redis dies too.")] = None,
    reports: Reports = REPORTS,
) -> None:
    """100,000 single messages while the server is killed (-9) every 5 s: nothing may be lost."""
    plan = QUICK_KILLS if quick else KillsPlan()
    plan = changed(plan, messages=messages, every_s=every, with_redis=with_redis)
    _report(context, reports, partial(run_kills, plan), measured_table)


@bench_app.command("slow-consumer")
def slow_consumer(
    context: typer.Context, quick: Quick = False, rounds: Rounds = None, reports: Reports = REPORTS
) -> None:
    """One device stops reading: what the others notice, and what becomes of it."""
    _disturb(context, slow_consumer_profile, quick, rounds, reports)


@bench_app.command("meeting-isolation")
def meeting_isolation(
    context: typer.Context, quick: Quick = False, rounds: Rounds = None, reports: Reports = REPORTS
) -> None:
    """A meeting at its limits: what the user sockets notice."""
    _disturb(context, meeting_isolation_profile, quick, rounds, reports)


# ── 存心的破坏 ──────────────────────────────────────────────────────────────


@bench_app.command()
def siege(
    context: typer.Context,
    quick: Quick = False,
    seconds: Annotated[
        float | None, typer.Option(min=1, max=60, help="Of each attack, each way.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="Only these, e.g. A1,A5.")] = None,
    reports: Reports = REPORTS,
) -> None:
    """One attacker, one token, a core of his own: what 20 honest people notice."""
    plan = changed(QUICK_SIEGE if quick else SiegePlan(), seconds=seconds, only=only)
    report = _report(context, reports, partial(run_siege, plan), measured_table)
    if any(figure.met is False for figure in report.figures):
        raise typer.Exit(1)


@bench_app.command()
def fuzz(
    context: typer.Context,
    cases: Annotated[int | None, typer.Option(min=1, help="Connections per edge.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same cases.")] = 1,
    case: Annotated[int | None, typer.Option(help="Only this case, once.")] = None,
    edge: Annotated[str | None, typer.Option(help="native or asgi; default both.")] = None,
    quick: Quick = False,
    reports: Reports = REPORTS,
) -> None:
    """Bad input against a real server on both edges; exit code 1 if it was hurt."""
    plan = changed(QUICK_FUZZ if quick else FuzzPlan(), cases=cases, seed=seed)
    console = Console(highlight=False)
    edges = (edge,) if edge is not None else EDGES
    if case is not None:
        raise typer.Exit(run_case_alone(console, plan, edges, case))
    report = run_fuzz(edges, plan, heading_of(context), Steps(console))
    console.print(fuzz_table(report))
    for run in report.runs:
        for finding in run.findings:
            console.print(f"{run.edge}: {finding}", markup=False, soft_wrap=True)
    console.print(f"report: {write_json(report, reports)}", soft_wrap=True)
    raise typer.Exit(1 if any(run.findings for run in report.runs) else 0)


@bench_app.command()
def chaos(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="One minute instead of five.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same plan of actions.")] = 1,
    redis: Annotated[
        RedisKind | None,
        typer.Option(help="sentinel: a master, replicas, three Sentinels; cluster: 3 and 3."),
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Messages times recipients.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=10, help="They are spread over.")] = None,
    every: Annotated[float | None, typer.Option(min=0.5, help="Seconds between faults.")] = None,
    database_url: Annotated[str | None, typer.Option(help="Empty database; SQLite.")] = None,
    reports: Reports = REPORTS,
    keep: Annotated[Path | None, typer.Option(help="Keep the history in this file.")] = None,
    recheck: Annotated[Path | None, typer.Option(help="Only check this old history.")] = None,
) -> None:
    """Break everything at random, record what happened, prove that no promise was broken."""
    plan = changed(QUICK_CHAOS if quick else FULL, seed=seed, redis=redis)
    plan = changed(plan, pairs=pairs, duration_s=seconds, fault_gap_s=every)
    order = ChaosOrder(plan, database_url, reports, keep, recheck)
    if not run_chaos_order(order, heading_of(context), Console(highlight=False)):
        raise typer.Exit(1)


def _report(
    context: typer.Context,
    reports: Path,
    run: Callable[[Heading, Steps], R],
    table: Callable[[R], Table],
) -> R:
    console = Console(highlight=False)
    heading, steps = heading_of(context), Steps(console)
    with steps.showing():
        report = run(heading, steps)
    show(console, table(report), report, reports)
    return report


def _disturb(
    context: typer.Context, profile: Profile, quick: bool, rounds: int | None, reports: Path
) -> None:
    plan = changed(QUICK_DISTURBANCE if quick else DisturbancePlan(), rounds=rounds)
    _report(context, reports, partial(run_disturbance, profile, plan), disturbance_table)


def _servers(
    url: str | None, redis_url: str | None, pid: int | None
) -> tuple[tuple[str, ...], ServerSource]:
    """要比较的名字，与各自的服务器；已有的服务器只有一种 edge，不知道是哪种。"""
    if url is None:
        return EDGES, own_server
    if redis_url is None:
        raise ConfigurationError("--url needs --redis-url: the fan-out is published there")
    return ("existing",), ExistingServer(url, redis_url, pid)
