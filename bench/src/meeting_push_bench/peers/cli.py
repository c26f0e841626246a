"""``meeting-push bench peers``。"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from ..progress import Steps
from ..report import Heading
from ..report_folder import Reports
from .contenders import CONTENDERS
from .plan import QUICK, PeersPlan
from .report import make_report, peers_table, write_peers
from .run import run_peers


def peers(
    quick: Annotated[bool, typer.Option("--quick", help="Small: seconds, not minutes.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, max=20, help="Rounds; medians.")] = None,
    sockets: Annotated[int | None, typer.Option(min=1, max=19_000)] = None,
    seconds: Annotated[float | None, typer.Option(min=0.5, help="Of each measurement.")] = None,
    reports: Reports = Path("reports"),
) -> None:
    """Ours, a hand-written FastAPI manager, python-socketio, bare picows: the same work."""
    given = {"rounds": rounds, "sockets": sockets, "seconds": seconds}
    changes = {name: value for name, value in given.items() if value is not None}
    plan = msgspec.structs.replace(QUICK if quick else PeersPlan(), **changes)
    words = [f"--{name} {value:g}" for name, value in changes.items()]
    command = " ".join(["meeting-push bench peers", *(["--quick"] if quick else []), *words])
    console = Console(highlight=False)
    heading = Heading.now(command)
    runs = run_peers(CONTENDERS, plan, Steps(console))
    report = make_report(heading, plan, CONTENDERS, runs)
    console.print(peers_table(report))
    folder = write_peers(report, reports)
    console.print(f"report: {folder / 'index.html'}", soft_wrap=True)
