"""``bench flush``、``retries``、``mailbox-memory``、``rolling``、``siege``：一次运行一份报告。"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import typer
from rich.console import Console

from .flush.plan import QUICK_FLUSH, FlushPlan
from .flush.run import run_flush
from .mailbox_memory import QUICK_MAILBOX_MEMORY, MailboxMemoryPlan, run_mailbox_memory
from .measured import MeasuredReport, show
from .progress import Steps
from .report import Heading
from .report_folder import Reports
from .retries.plan import QUICK_RETRIES, RetriesPlan
from .retries.run import run_retries
from .rolling.plan import QUICK_ROLLING, RollingPlan
from .rolling.run import run_rolling
from .siege.plan import QUICK_SIEGE, SiegePlan
from .siege.run import run_siege

Quick = Annotated[bool, typer.Option("--quick", help="Small: seconds, not minutes.")]
Users = Annotated[int | None, typer.Option(min=1, max=10_000, help="Users who return.")]
Messages = Annotated[
    int | None, typer.Option(min=1, max=1_000, help="Messages in the mailbox of each.")
]
Scheduled = Annotated[int | None, typer.Option(min=1, help="Entries that are not due.")]
Seconds = Annotated[float | None, typer.Option(min=1, max=60, help="Of each attack, each way.")]
Only = Annotated[str | None, typer.Option(help="Only these, e.g. A1,A5.")]
P = TypeVar("P", bound=msgspec.Struct)


def add_measured(app: typer.Typer) -> None:
    app.command("flush")(flush)
    app.command("retries")(retries)
    app.command("mailbox-memory")(mailbox_memory)
    app.command("rolling")(rolling)
    app.command("siege")(siege)


def flush(
    quick: Quick = False,
    users: Users = None,
    messages: Messages = None,
    reports: Reports = Path("reports"),
) -> None:
    """1,000 users return at once to 1,000 messages each: how fast, and what others notice."""
    plan = _changed(QUICK_FLUSH if quick else FlushPlan(), users=users, messages=messages)
    given = {"quick": quick, "users": users, "messages": messages}
    _run("flush", given, reports, lambda heading, steps: run_flush(plan, heading, steps))


def retries(
    quick: Quick = False, scheduled: Scheduled = None, reports: Reports = Path("reports")
) -> None:
    """Retries claimed, due entries moved, expiry swept, beside 1,000,000 scheduled entries."""
    plan = _changed(QUICK_RETRIES if quick else RetriesPlan(), scheduled=scheduled)
    given = {"quick": quick, "scheduled": scheduled}
    _run("retries", given, reports, lambda heading, steps: run_retries(plan, heading, steps))


def mailbox_memory(quick: Quick = False, reports: Reports = Path("reports")) -> None:
    """Bytes of Redis for each offline recipient of each message."""
    plan = QUICK_MAILBOX_MEMORY if quick else MailboxMemoryPlan()
    _run(
        "mailbox-memory",
        {"quick": quick},
        reports,
        lambda heading, steps: run_mailbox_memory(plan, heading, steps),
    )


def rolling(quick: Quick = False, reports: Reports = Path("reports")) -> None:
    """Three nodes restart one after the other under load: what senders and applications notice."""
    plan = QUICK_ROLLING if quick else RollingPlan()
    _run(
        "rolling",
        {"quick": quick},
        reports,
        lambda heading, steps: run_rolling(plan, heading, steps),
    )


def siege(
    quick: Quick = False,
    seconds: Seconds = None,
    only: Only = None,
    reports: Reports = Path("reports"),
) -> None:
    """One attacker, one token, a core of his own: what 20 honest people notice."""
    plan = _changed(QUICK_SIEGE if quick else SiegePlan(), seconds=seconds, only=only)
    given = {"quick": quick, "seconds": seconds, "only": only}
    report = _run("siege", given, reports, lambda heading, steps: run_siege(plan, heading, steps))
    if any(figure.met is False for figure in report.figures):
        raise typer.Exit(1)


def _changed(plan: P, **given: object) -> P:
    return msgspec.structs.replace(plan, **{k: v for k, v in given.items() if v is not None})


def _run(
    bench: str,
    given: Mapping[str, int | float | str | None],
    reports: Path,
    run: Callable[[Heading, Steps], MeasuredReport],
) -> MeasuredReport:
    options = [
        f"--{name}" if value is True else f"--{name} {value}"
        for name, value in given.items()
        if value is not None and value is not False
    ]
    console = Console(highlight=False)
    heading = Heading.now(" ".join(["meeting-push bench", bench, *options]))
    report = run(heading, Steps(console))
    show(report, console, reports)
    return report
