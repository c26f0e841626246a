"""``meeting-push redis report``：什么占着 Redis 的内存，一百万人要多少。"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

import typer

from .db import DataDir
from .settings import Settings, load_settings

if TYPE_CHECKING:
    from .redis.memory_report import MemoryReport

app = typer.Typer(help="Redis.", no_args_is_help=True)

MILLION: Final = 1_000_000


@app.callback()
def redis() -> None:
    """Redis: what it holds."""  # 只有一个子命令时 Typer 会省去它的名字


@app.command("report")
def report(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    most_keys: Annotated[
        int, typer.Option("--keys", min=1, help="Walk at most so many.")
    ] = MILLION,
    redis_url: Annotated[str | None, typer.Option(help="External Redis; default embedded.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Tell what holds the memory of Redis, by kind of key, and what a million people would need.

    It walks the keys in small pages and never blocks Redis; the server may run.
    """
    settings = load_settings(redis_url=redis_url, data_dir=data_dir)
    found = asyncio.run(_found(settings, most_keys))
    said = json.dumps(_as_json(found)) if as_json else "\n".join(_lines(found))
    sys.stdout.write(said + "\n")


async def _found(settings: Settings, most_keys: int) -> MemoryReport:
    from .redis.embedded import EmbeddedRedis
    from .redis.keys import Keys
    from .redis.memory_report import memory_report_at

    url = settings.redis.url or EmbeddedRedis(settings.process.data_dir).url
    keys = Keys(settings.redis.key_prefix)
    return await memory_report_at(url, keys, most_keys, settings.redis.timeout_s)


def _as_json(found: MemoryReport) -> dict[str, object]:
    return {
        "used_bytes": found.used_bytes,
        "max_bytes": found.max_bytes,
        "keys": found.total,
        "keys_walked": found.walked,
        "whole": found.whole,
        "kinds": {
            name: {
                "keys": kind.keys,
                "bytes": kind.estimated_bytes,
                "mean_bytes": round(kind.mean_bytes),
                "measured": kind.measured,
                "without_ttl": kind.without_ttl,
            }
            for name, kind in sorted(found.kinds.items())
        },
        "largest_mailboxes": [
            {"key": name, "entries": size} for size, name in found.largest_mailboxes
        ],
        "keys_without_ttl": found.eternal,
        "people": found.people,
        "bytes_per_person": round(found.bytes_per_person),
        "bytes_per_message": round(found.bytes_per_message),
        "bytes_for_a_million_people": round(found.bytes_per_person * MILLION),
        "bytes_for_a_million_messages": round(found.bytes_per_message * MILLION),
    }


def _lines(found: MemoryReport) -> Iterator[str]:
    limit = f" of {_size(found.max_bytes)}" if found.max_bytes else ", no maxmemory"
    yield f"{_size(found.used_bytes)} used{limit}; {found.total} keys, {found.walked} of ours seen"
    if not found.whole:
        yield "not all keys were walked: --keys takes more; the figures are of those seen"
    yield f"{'kind':<26} {'keys':>10} {'memory':>10} {'mean':>9} {'no ttl':>7}"
    by_size = sorted(found.kinds.items(), key=lambda each: -each[1].estimated_bytes)
    for name, kind in by_size:
        yield (
            f"{name:<26} {kind.keys:>10} {_size(kind.estimated_bytes):>10}"
            f" {kind.mean_bytes:>7.0f} B {kind.without_ttl:>7}"
        )
    for size, name in found.largest_mailboxes:
        yield f"mailbox of {size} entries: {name}"
    for name in found.eternal:
        yield f"without a TTL: {name}"
    person, message = found.bytes_per_person, found.bytes_per_message
    yield f"{found.people} people, {person:.0f} B each: {_size(person * MILLION)} for a million"
    yield f"{message:.0f} B a message that is kept: {_size(message * MILLION)} for a million"


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1_000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1_000
    return f"{count:.1f} GB"
