"""``meeting-push db …``：表结构在哪、升、退、改名，与给 DBA 看的 SQL。"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .settings import load_settings

if TYPE_CHECKING:
    from .storage.database import Database

app = typer.Typer(help="The database.", no_args_is_help=True)

DataDir = Annotated[Path | None, typer.Option(help="Folder of SQLite, embedded Redis, secrets.")]
DatabaseUrl = Annotated[str | None, typer.Option(help="SQL database; default SQLite.")]


@app.command("upgrade")
def upgrade(database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Bring the schema to the newest (every start does so too)."""

    async def run(database: Database) -> str:
        await database.migrate()
        return await _described(database)

    _with_database(run, database_url, data_dir)


@app.command("current")
def current(database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Tell which schema the database has, and how the tables are named; changes nothing."""
    _with_database(_described, database_url, data_dir)


@app.command("sql")
def sql(
    since: Annotated[
        str | None, typer.Option("--from", help="Schema to begin at; base = an empty database.")
    ] = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Print the SQL that `upgrade` would execute; changes nothing."""

    async def run(database: Database) -> str:
        return await database.upgrade_script(since)

    _with_database(run, database_url, data_dir)


@app.command("downgrade")
def downgrade(
    revision: Annotated[str, typer.Argument(help="Schema to go back to, such as 0007.")],
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Take the schema back for an older program; what was added since is lost."""

    async def run(database: Database) -> str:
        await database.downgrade(revision)
        return ""

    _with_database(run, database_url, data_dir)


@app.command("rename")
def rename(
    from_prefix: Annotated[str, typer.Option(help="Prefix they have; default none: 0.1's.")] = "",
    from_schema: Annotated[str | None, typer.Option(help="PostgreSQL schema they are in.")] = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Rename the tables to MEETING_PUSH_TABLE_PREFIX and MEETING_PUSH_DATABASE_SCHEMA.

    Stop the servers first: those running still say the old names.
    """

    async def run(database: Database) -> str:
        await database.rename(from_prefix, from_schema)
        return await _described(database)

    _with_database(run, database_url, data_dir)


@app.command("retention")
def retention(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be removed.")
    ] = False,
    days: Annotated[
        int | None, typer.Option(min=1, help="Default: MEETING_PUSH_RETENTION_DAYS.")
    ] = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Remove messages older than that and over for everybody, now, in small steps.

    The servers do so every hour by themselves, and may run meanwhile.
    """
    settings = load_settings(database_url=database_url, data_dir=data_dir, retention_days=days)

    async def run(database: Database) -> str:
        from .retention import remove_old

        return await remove_old(database, settings.retention, dry_run=dry_run)

    _with_database(run, database_url, data_dir)


@app.command("restored")
def restored(database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Tell that this database was brought back from a dump; the servers must not run.

    The next start clears what Redis holds and delivers again, from the record, what has not ended.
    """

    async def run(database: Database) -> str:
        from .retention import note_restored

        return await note_restored(database)

    _with_database(run, database_url, data_dir)


@app.command("unarchive")
def unarchive(
    files: Annotated[
        list[Path], typer.Argument(help="Files of MEETING_PUSH_RETENTION_ARCHIVE_DIR.")
    ],
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Put archived messages back; rows that are there already stay as they are.

    Set MEETING_PUSH_RETENTION_DAYS higher first: they are as old as before.
    """

    async def run(database: Database) -> str:
        from .retention import put_back

        return await put_back(database, files)

    _with_database(run, database_url, data_dir)


async def _described(database: Database) -> str:
    version = await database.schema_version()
    names = f"tables {database.naming.name('mp_*')}"
    where = f" in schema {database.naming.schema}" if database.naming.schema else ""
    newest = "" if version is None or await database.needs_migration() else " (newest)"
    return f"{version or 'empty'}{newest}, {names}{where}"


def _with_database(
    run: Callable[[Database], Awaitable[str]], database_url: str | None, data_dir: Path | None
) -> None:
    """做一件事，印出它说的。"""
    from .storage.database import Database

    settings = load_settings(database_url=database_url, data_dir=data_dir)

    async def go() -> str:
        database = Database.of(settings.sql_url, settings.database)
        try:
            return await run(database)
        finally:
            await database.dispose()

    if said := asyncio.run(go()):
        sys.stdout.write(f"{said}\n")
