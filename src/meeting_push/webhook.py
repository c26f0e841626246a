"""``meeting-push webhook …``：接收事件的 URL，试一试，等着的与死信。"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from .clock import now_ms
from .db import DatabaseUrl, DataDir
from .errors import ChannelFailedError, ConfigurationError, NotFoundError
from .logs import plain
from .settings import Settings, load_settings

if TYPE_CHECKING:  # 用到才导入
    from .events.config import WebhookConfig
    from .storage.event_queue import EventQueueRepository

app = typer.Typer(help="Receivers of events.", no_args_is_help=True)

Url = Annotated[str, typer.Argument(metavar="URL", help="As in the file, or as `list` shows it.")]
#: 一次再送、丢掉至多这么多份；更多的再来一次。
_STEP: Final = 5_000
_SHOWN: Final = 100
TEST: Final = "webhook.test"


@app.command("list")
def list_receivers(database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """List the receivers: what waits, since when, dead letters, whether it is gone.

    Also those nobody sends to any more, by their key.
    """

    async def run(queue: EventQueueRepository, receivers: list[WebhookConfig]) -> str:
        parked = await queue.parked()
        lines = [
            await _line(queue, one.key, one.shown, "gone" if one.key in parked else "live")
            for one in receivers
        ]
        known = {one.key for one in receivers}
        strays = [key for key in await queue.unclaimed(now_ms()) if key not in known]
        return "\n".join(lines + [await _line(queue, key, key, "unclaimed") for key in strays])

    _with_queue(run, None, database_url, data_dir, required=False)


@app.command("test")
def try_receivers(
    url: Annotated[
        str | None, typer.Argument(metavar="[URL]", help="Default: each in the file.")
    ] = None,
) -> None:
    """Send a signed event of the type webhook.test and print the answer."""
    receivers = _chosen(load_settings(), url)
    answers = asyncio.run(_try(receivers))
    for one, (said, _) in zip(receivers, answers, strict=True):
        sys.stdout.write(f"{one.shown}\t{plain(said)}\n")
    if not all(taken for _, taken in answers):
        raise ChannelFailedError("not every receiver took it")


@app.command("dead")
def dead(url: Url, database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """List the newest dead letters: id, event, how many, when, attempts, why."""

    async def run(queue: EventQueueRepository, receivers: list[WebhookConfig]) -> str:
        rows = await queue.dead(receivers[0].key, _SHOWN)
        return "\n".join(
            f"{row.id}\t{row.kind}\t{row.event_count}\t{_moment(row.created_at)}"
            f"\t{row.attempts} attempts\t{plain(row.why or '')}"
            for row in rows
        )

    _with_queue(run, url, database_url, data_dir)


@app.command("requeue")
def requeue(url: Url, database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Send the dead letters again, and go on with a receiver that said it is gone."""

    async def run(queue: EventQueueRepository, receivers: list[WebhookConfig]) -> str:
        key = receivers[0].key
        await queue.park(key, None)
        return f"{await queue.requeue(key, now_ms(), _STEP)} posts are sent again"

    _with_queue(run, url, database_url, data_dir)


@app.command("drop")
def drop(url: Url, database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Remove the dead letters; of a receiver nobody sends to any more, all of it."""

    async def run(queue: EventQueueRepository, receivers: list[WebhookConfig]) -> str:
        for one in receivers:
            if url in (one.url, one.shown):
                removed = await queue.forget_dead(one.key, now_ms(), 0, _STEP)
                break
        else:
            removed = await queue.forget(await _stray(queue, url), _STEP)
        return f"{removed} posts are removed"

    _with_queue(run, None, database_url, data_dir, required=False)


async def _stray(queue: EventQueueRepository, given: str) -> str:
    """``given``：``list`` 里的钥匙，或从文件里去掉了的 URL。

    :raises NotFoundError: 没有它的，或还有谁送
    """
    from .events.config import key_of_url

    for key in await queue.unclaimed(now_ms()):
        if key in (given, key_of_url(given)):
            return key
    raise _no_such_receiver()


async def _line(queue: EventQueueRepository, key: str, shown: str, state: str) -> str:
    waiting = await queue.waiting(key)
    since = "-" if waiting.oldest is None else _moment(waiting.oldest)
    return f"{shown}\t{state}\t{waiting.events} waiting since {since}\t{waiting.dead} dead"


async def _try(receivers: list[WebhookConfig]) -> list[tuple[str, bool]]:
    """各答了什么，收下没有。"""
    from ulid import ULID

    from .events.delivery import Verdict, WebhookPost
    from .events.units import PushEvent, moment

    answers: list[tuple[str, bool]] = []
    for one in receivers:
        event = PushEvent(f"evt_{ULID()}_0", TEST, moment(now_ms()), {"url": one.shown})
        post = WebhookPost(one)
        try:
            answer = await post.send(event.id, [event])
        finally:
            await post.close()
        answers.append((answer.why, answer.verdict is Verdict.DONE))
    return answers


def _chosen(settings: Settings, url: str | None, *, required: bool = True) -> list[WebhookConfig]:
    """:raises ConfigurationError: 没有文件（``required``），或文件不对"""
    from .events.config import load_webhooks

    if settings.events.file is None and required:
        raise ConfigurationError("MEETING_PUSH_WEBHOOKS is not set: there are no receivers")
    found = [
        one for one in load_webhooks(settings.events.file) if url in (None, one.url, one.shown)
    ]
    if url is not None and not found:
        raise _no_such_receiver()
    return found


def _no_such_receiver() -> NotFoundError:
    return NotFoundError("no such receiver: see `meeting-push webhook list`")


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _with_queue(
    run: Callable[[EventQueueRepository, list[WebhookConfig]], Awaitable[str]],
    url: str | None,
    database_url: str | None,
    data_dir: Path | None,
    *,
    required: bool = True,
) -> None:
    """做一件事，印出它说的。"""
    from .storage.database import Database
    from .storage.event_queue import EventQueueRepository

    settings = load_settings(database_url=database_url, data_dir=data_dir)
    receivers = _chosen(settings, url, required=required)

    async def go() -> str:
        database = Database.of(settings.sql_url, settings.database)
        await database.migrate()
        try:
            return await run(EventQueueRepository(database), receivers)
        finally:
            await database.dispose()

    if said := asyncio.run(go()):
        sys.stdout.write(f"{said}\n")
