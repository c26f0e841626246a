"""``meeting-push key …``：后端的 API 密钥。"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .db import DatabaseUrl, DataDir
from .errors import NotFoundError
from .logs import plain
from .settings import load_settings

if TYPE_CHECKING:  # 用到才导入
    from .auth.api_keys import ApiKeys
    from .storage.accounts import ApiKey

app = typer.Typer(help="API keys, for back ends.", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Shown as the sender of what it sends.")],
    scope: Annotated[str, typer.Option(help="Some of send,broadcast,read,presence,admin.")],
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it; only now: what is stored is a hash."""

    async def run(keys: ApiKeys) -> str:
        number, key = await keys.create(name, scope.split(","))
        sys.stderr.write(f"key {number}: shown only now; `meeting-push key revoke {number}`\n")
        return key

    _with_keys(run, database_url, data_dir)


@app.command("list")
def list_keys(database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """List the keys: id, name, scopes, made, revoked."""

    async def run(keys: ApiKeys) -> str:
        return "\n".join(map(_line, await keys.list()))

    _with_keys(run, database_url, data_dir)


@app.command("revoke")
def revoke(
    key_id: Annotated[int, typer.Argument(metavar="ID", help="From `key list`.")],
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Revoke a key: refused everywhere within two seconds."""

    async def run(keys: ApiKeys) -> str:
        if not await keys.revoke(key_id):
            raise NotFoundError(f"no live key {key_id}: see `meeting-push key list`")
        return ""

    _with_keys(run, database_url, data_dir)


def _line(key: ApiKey) -> str:
    revoked = f"revoked {_day(key.revoked_at)}" if key.revoked_at is not None else "live"
    return f"{key.id}\t{plain(key.name)}\t{key.scopes}\t{_day(key.created_at)}\t{revoked}"


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _with_keys(
    run: Callable[[ApiKeys], Awaitable[str]], database_url: str | None, data_dir: Path | None
) -> None:
    """做一件事，印出它说的。"""
    from .auth.api_keys import ApiKeys
    from .storage.accounts import ApiKeyRepository
    from .storage.database import Database

    settings = load_settings(database_url=database_url, data_dir=data_dir)

    async def go() -> str:
        database = Database.of(settings.sql_url, settings.database)
        await database.migrate()
        try:
            return await run(ApiKeys(ApiKeyRepository(database)))
        finally:
            await database.dispose()

    if said := asyncio.run(go()):
        sys.stdout.write(f"{said}\n")
