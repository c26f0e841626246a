"""命令行：``db retention`` 与 ``db unarchive``；doctor 说留多久。"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from meeting_push import doctor
from meeting_push.cli import app
from meeting_push.clock import now_ms
from meeting_push.errors import ConfigurationError, UnavailableError
from meeting_push.outcome.retention import EVERY_MS, LEASE_MS
from meeting_push.settings import load_settings
from meeting_push.storage.database import Database
from meeting_push.storage.retention import RetentionRepository
from tests.support.old_messages import OldMessages


@pytest.fixture
def told(database_url: str) -> Callable[..., str]:
    """一条 db 命令印出的。"""

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["db", *arguments, "--database-url", database_url])
        if result.exception is not None:
            raise result.exception
        return result.stdout

    return run


def with_database(url: str, work: Callable[[Database], Awaitable[object]]) -> object:
    async def run() -> object:
        database = Database(url)
        try:
            return await work(database)
        finally:
            await database.dispose()

    return asyncio.run(run())


async def _two_old(database: Database) -> None:
    old = OldMessages(database, now_ms())
    await old.direct(300, {1: "delivered", 2: "expired"})
    await old.direct(200, {1: "pending"})
    await old.broadcast(190, receipts=3)


def test_a_dry_run_tells_and_removes_nothing(database_url: str, told: Callable[..., str]) -> None:
    with_database(database_url, _two_old)
    for _ in range(2):
        said = told("retention", "--dry-run")
        assert "older than 180 days" in said
        assert "2 messages with 2 recipients (of them 1 broadcasts with 3 receipts)" in said
        assert "1 messages stay" in said
    assert "0 messages with" in told("retention", "--dry-run", "--days", "400")


def test_a_pass_now_whatever_the_hour(database_url: str, told: Callable[..., str]) -> None:
    assert "0 messages with" in told("retention")
    with_database(database_url, _two_old)
    assert "2 messages with 2 recipients" in told("retention")
    assert "0 messages with" in told("retention")


def test_it_does_not_join_another_process(database_url: str, told: Callable[..., str]) -> None:
    async def hold(database: Database) -> None:
        now = now_ms()
        await RetentionRepository(database).take("server", now, now + LEASE_MS, EVERY_MS)

    with_database(database_url, hold)
    with pytest.raises(UnavailableError, match="another process"):
        told("retention")


def test_archived_messages_are_put_back(
    database_url: str,
    told: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEETING_PUSH_RETENTION_ARCHIVE_DIR", str(tmp_path / "kept"))
    with_database(database_url, _two_old)
    told("retention")
    [file] = (tmp_path / "kept").iterdir()
    assert "8 of 8 rows put back" in told("unarchive", str(file))
    assert "0 of 8 rows put back" in told("unarchive", str(file))
    assert "2 messages with 2 recipients" in told("retention", "--dry-run")


def test_a_database_that_is_not_migrated_is_told_so(
    database_url: str, told: Callable[..., str]
) -> None:
    with_database(database_url, lambda database: database.downgrade("0007"))
    with pytest.raises(ConfigurationError, match="db upgrade"):
        told("retention", "--dry-run")


@pytest.mark.parametrize(
    ("since", "settings", "said"),
    [
        (None, {}, "kept 180 days"),
        (None, {"retention_days": 30}, "kept 30 days"),
        (None, {"retention_days": 0}, "kept for ever: MEETING_PUSH_RETENTION_DAYS"),
        ("0016", {}, "older than retention"),
    ],
)
async def test_doctor_says_how_long_messages_are_kept(
    database: Database,
    database_url: str,
    since: str | None,
    settings: dict[str, object],
    said: str,
    tmp_path: Path,
) -> None:
    if since is not None:
        await database.downgrade(since)
        await OldMessages(database).direct(1)
        await database.migrate()
    given = load_settings(database_url=database_url, data_dir=tmp_path, **settings)
    [finding] = [one async for one in doctor.examine(given) if one.name == "database"]
    assert finding.ok
    assert said in finding.text
