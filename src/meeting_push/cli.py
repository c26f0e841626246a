"""命令行：serve · demo · send · listen · token · user · key · db · doctor；bench 从入口点来。

只装了 SDK 的机器上有 send、listen、token、version；其余的要 ``[server]``，轮到它们才导入，
缺了就说装什么。

可预期的错误是一行字：配置不对退出码 2，其余 1；从不给出回溯。

命令行里的密码谁都能用 ``ps`` 看到：挪进环境变量（只有主人读得到），再以没有它们的参数重新执行。

看得到的只剩进程最初的几十毫秒；完全不想给人看的，一开始就用环境变量或 ``.env``。
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn
from urllib.parse import urlsplit

import typer
from loguru import logger

from .api_keys import app as key_app
from .db import DatabaseUrl, DataDir
from .db import app as db_app
from .errors import ConfigurationError, InvalidInputError, MeetingPushError, MissingExtraError
from .logs import plain, plain_json
from .model import MAX_USER_ID, USER_ROLE
from .person_id import PersonId, PersonIds
from .redis_report import app as redis_app
from .settings import Role, Settings, load_settings
from .user import app as user_app
from .user import require_accounts
from .version import __version__
from .webhook import app as webhook_app

if TYPE_CHECKING:  # 用到才导入：签一个令牌不必等服务器与终端的表
    from rich.console import Console


app = typer.Typer(
    name="meeting-push",
    help="User-level real-time push: accept, deliver, confirm.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(user_app, name="user")
app.add_typer(db_app, name="db")
app.add_typer(key_app, name="key")
app.add_typer(webhook_app, name="webhook")
app.add_typer(redis_app, name="redis")


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(__version__ + "\n")
        raise typer.Exit


@app.callback()
def _whole(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """User-level real-time push: accept, deliver, confirm."""


#: 别的发行包把 ``typer.Typer`` 挂在这一组入口点上，名字就是命令。
COMMANDS: Final = "meeting_push.commands"

RedisUrl = Annotated[str | None, typer.Option(help="External Redis; default embedded.")]
BaseUrl = Annotated[str, typer.Option(help="Where the server is.")]
TokenOption = Annotated[
    str | None,
    typer.Option(envvar="MEETING_PUSH_TOKEN", help="Access token or API key; default: sign one."),
]


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 chooses a free one.")] = None,
    role: Annotated[Role | None, typer.Option(help="all, api, gateway or worker.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes behind one port.")] = None,
    redis_url: RedisUrl = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Run the server until SIGTERM or SIGINT."""
    gc.disable()  # 导入与装配造的都要留着；服务开始时再打开（``process_temper.calm_collector``）
    import uvloop

    from .server import run_process, run_workers

    settings = load_settings(
        host=host,
        port=port,
        role=role,
        workers=workers,
        redis_url=redis_url,
        database_url=database_url,
        data_dir=data_dir,
    )
    uvloop.run(run_workers(settings) if settings.process.workers > 1 else run_process(settings))


@app.command()
def token(
    user_id: Annotated[int, typer.Option(help="Whose token.")],
    role: Annotated[str, typer.Option(help="Role claim.")] = USER_ROLE,
    ttl_s: Annotated[int | None, typer.Option(help="Seconds it is valid.")] = None,
    name: Annotated[str, typer.Option(help="Name claim.")] = "",
    data_dir: DataDir = None,
) -> None:
    """Print a signed access token (tests, operations)."""
    sys.stdout.write(_sign(load_settings(data_dir=data_dir), user_id, role, ttl_s, name) + "\n")


@app.command()
def send(
    to: Annotated[str, typer.Option(help="Recipients, comma separated: 1,2.")],
    title: Annotated[str, typer.Option(help="Title, 1 to 200 characters.")],
    content: Annotated[str, typer.Option(help="Text.")] = "",
    priority: Annotated[int, typer.Option(min=0, max=9, help="5 and more are urgent.")] = 0,
    sender_id: Annotated[int, typer.Option(help="Sender when the token is signed here.")] = 1,
    url: BaseUrl = "http://127.0.0.1:8000",
    token: TokenOption = None,
    data_dir: DataDir = None,
) -> None:
    """Send one message and print its id."""
    recipients = _persons(to, "--to")
    access = token or _sign(load_settings(data_dir=data_dir), sender_id)
    from .client.rest_client import RestClient

    async def run() -> None:
        sent = await RestClient(url, access).send(recipients, title, content, priority=priority)
        sys.stdout.write(f"{sent.message_id}\n")

    asyncio.run(run())


@app.command()
def listen(
    user_id: Annotated[str, typer.Option(help="Whose messages.")],
    url: BaseUrl = "http://127.0.0.1:8000",
    count: Annotated[int, typer.Option(help="Stop after so many; 0 = never.")] = 0,
    token: TokenOption = None,
    data_dir: DataDir = None,
) -> None:
    """Print each message as one JSON line, acknowledging it."""
    settings = load_settings(data_dir=data_dir)
    from .client.push_client import PushClient

    [person] = _persons(user_id, "--user-id")

    def fresh_token() -> str:
        return token or _sign(settings, _integer(person))

    async def run() -> None:
        received = 0
        async with PushClient(url, fresh_token, user_id=person, device_info="cli") as client:
            async for message in client:
                sys.stdout.write(plain_json(message.to_json()) + "\n")  # 正文是别人写的
                sys.stdout.flush()
                message.ack()
                received += 1
                if received == count:
                    return

    asyncio.run(run())


@app.command("demo")
def run_demo(
    once: Annotated[bool, typer.Option("--once", help="Stop after the job.")] = False,
    port: Annotated[int, typer.Option(help="Port; 0 chooses a free one.")] = 0,
) -> None:
    """Start a server in a temporary folder and run the main job in front of you."""
    from . import demo

    import_module(".server", __package__)  # 演示把它起成进程：没有装就不开始
    raise typer.Exit(asyncio.run(demo.run(_console(), once=once, port=port)))


@app.command("doctor")
def run_doctor(
    redis_url: RedisUrl = None, database_url: DatabaseUrl = None, data_dir: DataDir = None
) -> None:
    """Check Redis, database, limits, clock and migrations: one line each."""
    from . import doctor

    settings = load_settings(redis_url=redis_url, database_url=database_url, data_dir=data_dir)
    raise typer.Exit(asyncio.run(doctor.run(_console(), settings)))


Force = Annotated[bool, typer.Option("--force", help="Although something is there already.")]


@app.command("backup")
def run_backup(
    file: Annotated[Path, typer.Argument(help="Where to, such as backup.tar.gz.")],
    force: Force = False,
    data_dir: DataDir = None,
) -> None:
    """Copy SQLite, the embedded Redis and the signing secret into one file; the server may run."""
    from .backup import back_up

    sys.stdout.write(back_up(load_settings(data_dir=data_dir), file, force=force) + "\n")


@app.command("restore")
def run_restore(
    file: Annotated[Path, typer.Argument(help="What `backup` wrote.")],
    force: Force = False,
    data_dir: DataDir = None,
) -> None:
    """Put a backup into the data folder; the server must not run. --force moves old data aside."""
    from .backup import restore

    sys.stdout.write(restore(load_settings(data_dir=data_dir), file, force=force) + "\n")


@app.command("drill")
def run_drill(
    name: Annotated[str | None, typer.Argument(help="Which one.")] = None,
    every: Annotated[bool, typer.Option("--all", help="One after the other.")] = False,
    names: Annotated[bool, typer.Option("--list", help="Name them, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
    really: Annotated[bool, typer.Option("--yes-really", help="Break the one at --url.")] = False,
    url: Annotated[str | None, typer.Option(help="A test system; default: one of its own.")] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="MEETING_PUSH_TOKEN", help="An administrator's, for --url."),
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(envvar="MEETING_PUSH_REDIS_URL", help="The Redis of the one at --url."),
    ] = None,
) -> None:
    """Break something on purpose: fault, alert, notice, recovery, all clear, with times."""
    from .drill import runner

    given = runner.Given(name, every, names, as_json, really, url, token, redis_url)
    raise typer.Exit(asyncio.run(runner.run(_console(), given)))


@app.command()
def version() -> None:
    """Print the version."""
    sys.stdout.write(__version__ + "\n")


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _persons(text: str, option: str) -> list[PersonId]:
    """用逗号分开的 id；收不收一段字由服务器说。"""
    found: list[PersonId] = []
    for part in text.split(","):
        person = PersonIds(strings=True).read(part.strip())
        if person is None:
            raise InvalidInputError(f"{option}: user ids separated by commas, such as 1,2")
        found.append(person)
    return found


def _integer(person: PersonId) -> int:
    if not isinstance(person, int):
        raise InvalidInputError("--user-id: tokens made here are for integers; pass --token")
    return person


def _sign(
    settings: Settings, user: int, role: str = USER_ROLE, ttl_s: int | None = None, name: str = ""
) -> str:
    if not 1 <= user <= MAX_USER_ID:
        raise InvalidInputError("--user-id: a positive integer below 2^53")
    require_accounts(settings)
    from .auth.access_tokens import AccessTokens
    from .auth.keys import signing_secret

    lifetime = settings.auth.access_token_ttl_s if ttl_s is None else ttl_s
    tokens = AccessTokens(settings.auth, signing_secret(settings.auth, settings.process.data_dir))
    return tokens.issue(user, role, name, lifetime)


def join_commands(wanted: str | None = None) -> None:
    """挂上别的发行包的命令；只导入 ``wanted`` 这一个，None 是全部（``--help`` 要列出）。

    :raises ConfigurationError: 要的是 bench，而它没有安装
    """
    found = [each for each in entry_points(group=COMMANDS) if wanted in (None, each.name)]
    if wanted == "bench" and not found:
        raise ConfigurationError(
            "bench is a distribution of its own: pip install meeting-push-bench"
            " (from a checkout: pip install ./bench)"
        )
    for each in found:
        if each.name not in {group.name for group in app.registered_groups}:
            app.add_typer(each.load(), name=each.name)


def main() -> NoReturn:
    """入口：可预期的错误只有一行。"""
    hide_secrets()
    os.umask(0o077)  # 报告、日志、历史也只归主人（A15）
    # 服务器自己设置日志；其余命令只报警告，不打扰输出
    logger.remove()
    logger.add(sys.stderr, level="WARNING", format="{message}")
    first = next(iter(sys.argv[1:]), "-")
    try:
        join_commands(None if first.startswith("-") else first)
        app()
    except ConfigurationError as error:
        sys.exit(_say(error, 2))
    except MeetingPushError as error:
        sys.exit(_say(error, 1))
    except ModuleNotFoundError as error:
        sys.exit(_say(MissingExtraError(first, error, "server"), 2))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _say(error: MeetingPushError, code: int) -> int:
    sys.stderr.write(f"meeting-push: {plain(error.message)}\n")
    return code


_VARIABLES: Final = {
    "--database-url": "MEETING_PUSH_DATABASE_URL",
    "--redis-url": "MEETING_PUSH_REDIS_URL",
    "--token": "MEETING_PUSH_TOKEN",
}
#: 别的命令（bench）的同名选项与环境变量无关。
_COMMANDS: Final = frozenset(
    {"serve", "doctor", "user", "key", "db", "send", "listen", "drill", "redis"}
)


def hide_secrets() -> None:
    """有要藏的就不返回：同一个进程重新执行。"""
    if len(sys.argv) < 2 or sys.argv[1] not in _COMMANDS:
        return
    given = sys.argv[2:]
    kept, moved = without_secrets(given)
    if moved:
        os.environ.update(moved)
        before = sys.orig_argv[: len(sys.orig_argv) - len(given)]
        os.execv(sys.executable, [sys.executable, *before[1:], *kept])  # noqa: S606 — 不经 shell


def without_secrets(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """（留下的参数，挪走的环境变量）。"""
    kept: list[str] = []
    moved: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        words = [argument]
        if name in _VARIABLES and not equals:
            value = next(rest, "")
            words.append(value)
        if name in _VARIABLES and (name == "--token" or _has_password(value)):
            moved[_VARIABLES[name]] = value
        else:
            kept += words
    return kept, moved


def _has_password(url: str) -> bool:
    try:
        return urlsplit(url).password is not None or "password=" in url
    except ValueError:
        return False
