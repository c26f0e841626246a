"""``meeting-push user …``：账号的建立、清单、换密码、停用、恢复。

服务器在不在跑都行：记录在 SQL，跑着的两秒之内知道。
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from .db import DatabaseUrl, DataDir
from .errors import ConfigurationError, InvalidInputError, NotFoundError
from .model import ADMIN_ROLE, USER_ROLE
from .settings import Settings, load_settings

if TYPE_CHECKING:
    from .auth.auth_service import AuthService
    from .auth.revocations import Revocations
    from .node.control_channel import ControlCommand
    from .storage.accounts import UserRepository
    from .storage.database import Database
    from .storage.rows import User

app = typer.Typer(help="Accounts.", no_args_is_help=True)

Who = Annotated[str, typer.Argument(help="The username, or the id.")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="The username.")],
    role: Annotated[str, typer.Option(help="user or admin.")] = USER_ROLE,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Create an account; the password is asked for, or read from standard input."""
    from .auth.accounts import Accounts
    from .auth.passwords import Passwords
    from .storage.accounts import UserRepository

    if role not in (USER_ROLE, ADMIN_ROLE):
        raise ConfigurationError(f"--role must be {USER_ROLE} or {ADMIN_ROLE}")
    settings = load_settings(database_url=database_url, data_dir=data_dir)
    require_accounts(settings)
    password = _password()

    async def run() -> None:
        async with _database(settings) as database:
            accounts = Accounts(UserRepository(database), Passwords())
            user = await accounts.create(name, password, role)
        sys.stdout.write(f"{user.id}\n")

    asyncio.run(run())


@app.command("list")
def list_accounts(database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """List accounts."""
    from rich.console import Console
    from rich.table import Table

    from .storage.accounts import UserRepository

    settings = load_settings(database_url=database_url, data_dir=data_dir)
    require_accounts(settings)

    async def run() -> None:
        table = Table("id", "username", "role", "state")
        async with _database(settings) as database:
            users = UserRepository(database)
            last = 0
            while page := await users.list(last):
                for user in page:
                    state = "" if user.disabled_at is None else "disabled"
                    table.add_row(str(user.id), user.username, user.role, state)
                last = page[-1].id
        Console(highlight=False).print(table)

    asyncio.run(run())


@app.command("passwd")
def passwd(who: Who, database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Set a new password (asked for, or from standard input); all his tokens become void."""
    settings = load_settings(database_url=database_url, data_dir=data_dir)
    require_accounts(settings)
    password = _password()
    _change(settings, who, lambda auth, user: auth.set_password(user.id, password))


@app.command("disable")
def disable(who: Who, database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Turn an account off: no login, no tokens, its connections are closed within 2 seconds."""
    settings = load_settings(database_url=database_url, data_dir=data_dir)
    require_accounts(settings)
    _change(settings, who, lambda auth, user: auth.disable(user.id))


@app.command("enable")
def enable(who: Who, database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Turn an account on again."""
    settings = load_settings(database_url=database_url, data_dir=data_dir)
    require_accounts(settings)
    _change(settings, who, lambda auth, user: auth.enable(user.id))


@app.command("delete")
def delete(
    who: Who,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Erase a person for good: account, messages, texts, name, from both stores.

    The account is gone at once; the rest is done by a running server within a minute (or by the
    next one that starts).
    """
    settings = load_settings(database_url=database_url, data_dir=data_dir)
    require_accounts(settings)
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Erase {who} for good?", abort=True)

    async def run() -> None:
        async with _database(settings) as database:
            user = await _find(UserRepository(database), who)
            erasures = Erasures(
                ErasureRepository(database), _revocations(settings, database).banish, accounts=True
            )
            await erasures.erase(user.id, by="command line")
        sys.stdout.write(f"{user.id}\n")

    from .people.erasure import Erasures
    from .storage.accounts import UserRepository
    from .storage.erasures import ErasureRepository

    asyncio.run(run())


def require_accounts(settings: Settings) -> None:
    """:raises ConfigurationError: 人归应用"""
    if not settings.auth.owns_accounts:
        raise ConfigurationError(
            "identity=application: people and tokens are the application's, none are made here"
        )


def _password() -> str:
    return getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")


def _change(
    settings: Settings, who: str, change: Callable[[AuthService, User], Awaitable[None]]
) -> None:
    from .storage.accounts import UserRepository

    async def run() -> None:
        async with _database(settings) as database:
            user = await _find(UserRepository(database), who)
            await change(_auth(settings, database), user)
        sys.stdout.write(f"{user.id}\n")

    asyncio.run(run())


async def _find(users: UserRepository, who: str) -> User:
    """名字，或 id；名字可以全是数字，两个人都对得上就不猜。"""
    by_name = await users.by_name(who)
    by_id = None
    if who.isascii() and who.isdigit() and len(who) <= 16:
        by_id = await users.by_id(int(who))
    found = {user.id: user for user in (by_name, by_id) if user is not None}
    if not found:
        raise NotFoundError("no such account")
    if len(found) > 1:
        raise InvalidInputError(f"{who} is one account's name and another's id: use the other form")
    return next(iter(found.values()))


def _auth(settings: Settings, database: Database) -> AuthService:
    """没有 Redis：吊销记进 SQL，跑着的服务器自己来取。"""
    from .auth.access_tokens import AccessTokens
    from .auth.auth_service import AuthService
    from .auth.keys import signing_secret

    revocations = _revocations(settings, database)
    tokens = AccessTokens(settings.auth, signing_secret(settings.auth, settings.process.data_dir))
    return AuthService(settings.auth, database, tokens, revocations=revocations)


def _revocations(settings: Settings, database: Database) -> Revocations:
    from .auth.revocations import Revocations
    from .supervision import Aside

    return Revocations(settings.auth, database, publish=_unheard, aside=Aside("revocations"))


async def _unheard(_command: ControlCommand) -> int:
    return 0


@contextlib.asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Database]:
    from .storage.database import Database

    database = Database.of(settings.sql_url, settings.database)
    await database.migrate()
    try:
        yield database
    finally:
        await database.dispose()
