"""``meeting-push bench smoke`` … ``soak``，以及 ``bench compare``、``bench pair``。"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from meeting_push.settings import FLAT

from ..command_line import Reports, changed, heading_of
from ..progress import Steps
from .compare import compare_table, differences
from .page import write_result
from .pair import Pair, measure_pair
from .plan import PROFILES, LoadPlan
from .result import read_result
from .run import run_profile
from .servers import Options
from .table import result_table

#: 压测自己定的，或另有选项。
_OURS: Final = frozenset(
    {
        "host",
        "port",
        "data_dir",
        "role",
        "workers",
        "redis_url",
        "database_url",
        "key_prefix",
        "jwt_secret",
        "jwt_audience",
    }
)

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the server under test."),
]


def parse_settings(pairs: Sequence[str]) -> dict[str, str]:
    """``--set`` 给出的：改了这些设置再量，与没改的比。``connects_per_s=400``，大小写不论。

    :raises typer.BadParameter: 没有这个设置、它归压测自己管，或没有 ``=``
    """
    return dict(map(_parse, pairs))


def _parse(pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    name = name.strip().lower()
    if not equals:
        raise typer.BadParameter(f"{pair}: expected NAME=VALUE", param_hint="--set")
    if name in _OURS:
        raise typer.BadParameter(f"{name} is set by the bench", param_hint="--set")
    if name not in FLAT:
        raise typer.BadParameter(f"{name} is not a setting", param_hint="--set")
    return name, value


Sockets = Annotated[int | None, typer.Option(min=1, help="Connections.")]
Seconds = Annotated[float | None, typer.Option(min=0.5, help="Length of the measurement.")]
Rate = Annotated[float | None, typer.Option(min=0.1, help="Messages (recipients) a second.")]
Recipients = Annotated[int | None, typer.Option(min=1, help="Recipients of each durable message.")]
MessagesPerRequest = Annotated[
    int | None, typer.Option("--messages", min=1, max=1_000, help="Messages in each POST.")
]
Gateways = Annotated[
    int | None, typer.Option(min=0, help="Gateway processes; 0: one process does everything.")
]
LoadProcesses = Annotated[int | None, typer.Option(min=1, help="Processes that hold sockets.")]
Url = Annotated[str | None, typer.Option(help="An existing server on this machine (REST).")]
WsUrl = Annotated[str | None, typer.Option(help="Its gateway, where it is another port.")]
RedisUrl = Annotated[str | None, typer.Option(help="Its Redis; without --url: Redis for ours.")]
DatabaseUrl = Annotated[str | None, typer.Option(help="SQL database; default SQLite.")]
Pid = Annotated[list[int] | None, typer.Option(help="Its processes, for CPU and memory.")]
Check = Annotated[bool, typer.Option("--check", help="Exit 1 when a goal is missed.")]


def add_profiles(app: typer.Typer) -> None:
    """每个 profile 一个命令，选项相同。"""
    for name, plan in PROFILES.items():
        app.command(name, help=plan.about)(_command(name))
    app.command("compare")(compare)
    app.command("pair")(pair)


def _command(profile: str) -> Callable[..., None]:
    def command(
        context: typer.Context,
        sockets: Sockets = None,
        seconds: Seconds = None,
        rate: Rate = None,
        recipients: Recipients = None,
        messages: MessagesPerRequest = None,
        gateways: Gateways = None,
        load_processes: LoadProcesses = None,
        url: Url = None,
        ws_url: WsUrl = None,
        redis_url: RedisUrl = None,
        database_url: DatabaseUrl = None,
        pid: Pid = None,
        settings: Set = None,
        reports: Reports = Path("reports"),
        check: Check = False,
    ) -> None:
        plan = changed(
            PROFILES[profile],
            sockets=sockets,
            seconds=seconds,
            rate_per_s=rate,
            recipients_per_message=recipients,
            messages_per_request=messages,
            gateways=gateways,
            load_processes=load_processes,
        )
        if url is not None and settings:
            raise typer.BadParameter("not with --url: that server has started", param_hint="--set")
        options = Options(
            url=url,
            ws_url=ws_url,
            redis_url=redis_url,
            database_url=database_url,
            pids=tuple(pid or ()),
            settings=parse_settings(settings or ()),
        )
        _run(context, plan, options, reports, check=check)

    return command


def _run(
    context: typer.Context, plan: LoadPlan, options: Options, reports: Path, *, check: bool
) -> None:
    console = Console(highlight=False)
    result = run_profile(plan, options, heading_of(context), Steps(console))
    console.print(result_table(result))
    for note in result.notes:
        console.print(f"note: {note}")
    folder = write_result(result, reports)
    console.print(f"report: {folder / 'index.html'}", soft_wrap=True)
    if check and result.missed:
        raise typer.Exit(1)


def pair(
    context: typer.Context,
    profile: Annotated[str, typer.Option(help="durable, 1k, fanout …")] = "durable",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="What arm B has; default metrics=false."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each arm runs.")] = 3,
    seconds: Seconds = None,
    redis_url: RedisUrl = None,
    reports: Reports = Path("reports"),
) -> None:
    """One profile in two arms, in turn: as it is, and with a few settings changed."""
    if profile not in PROFILES:
        raise typer.BadParameter(f"one of {', '.join(PROFILES)}", param_hint="--profile")
    order = Pair(
        profile=profile,
        settings=parse_settings(settings or ["metrics=false"]),
        rounds=rounds,
        seconds=seconds,
        redis_url=redis_url,
    )
    measure_pair(order, heading_of(context), reports)


def compare(
    before: Annotated[Path, typer.Argument(help="result.json, or its folder.")],
    after: Annotated[Path, typer.Argument(help="The same of the other run.")],
    noise: Annotated[float, typer.Option(min=0, help="Changes up to this share are none.")] = 0.1,
) -> None:
    """Two results of the same profile, figure by figure."""
    console = Console(highlight=False)
    first, second = read_result(before), read_result(after)
    for name, result in (("A", first), ("B", second)):
        console.print(f"{name}: {result.started_at} {result.commit} {result.command}")
    console.print(compare_table(first, second, noise))
    for difference in differences(first, second):
        console.print(f"note: {difference}")
