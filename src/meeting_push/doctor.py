"""``meeting-push doctor``：这台机器上哪里不对，以及该怎么办；一项一行。"""

from __future__ import annotations

import asyncio
import re
import resource
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Final
from urllib.request import ProxyHandler, build_opener

from rich.console import Console
from rich.markup import escape

from .errors import ConfigurationError, MeetingPushError
from .events.config import load_webhooks
from .logs import plain
from .redis.address import RedisAddress
from .redis.embedded import find_server
from .redis.keys import Keys
from .redis.probe import check_rights
from .redis.redis_service import NO_EVICTION, RedisService
from .redis.sentinel import answering
from .redis.slot_map import find_slots
from .settings import Settings
from .storage.accounts import ApiKeyRepository
from .storage.database import Database
from .storage.retention import RetentionRepository

#: 一个网关进程想持有的连接数的一半都不到，就值得提醒。
WANTED_OPEN_FILES: Final = 20_000
WANTED_BACKLOG: Final = 1_024
MAX_CLOCK_SKEW_S: Final = 2.0
_METRICS_TIMEOUT_S: Final = 5
_METRICS_BYTES: Final = 8 * 1024 * 1024
#: 听着所有地址的，从这里问得到。
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 — 不是去听
_BY_TRANSPORT: Final = re.compile(
    r'^meeting_push_connections_by_transport\{transport="(\w+)"\} (\d+)', re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Finding:
    """一项检查的结果；``advice`` 只在不好时有。"""

    name: str
    ok: bool
    text: str
    advice: str = ""


#: 为什么进不去 → 该怎么办。
_REDIS_ADVICE: Final = {"noperm": "grant what is missing", "noauth": "check the password"}

Check = Callable[[Settings], Awaitable[Finding]]


async def run(out: Console, settings: Settings) -> int:
    """逐项打印；有不好的返回 1。"""
    bad = 0
    async for finding in examine(settings):
        mark = "[green]ok  [/]" if finding.ok else "[red]FAIL[/]"
        out.print(f"{mark} {finding.name:<12} {escape(plain(finding.text))}", soft_wrap=True)
        if not finding.ok:
            bad += 1
            out.print(f"     {'':<12} → {finding.advice}", soft_wrap=True)
    return 1 if bad else 0


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """依次做每项检查；一项失败不影响其余。"""
    checks: tuple[tuple[str, Check], ...] = (
        ("redis", _redis),
        ("clock", _clock),
        ("database", _database),
        ("open files", _open_files),
        ("backlog", _backlog),
        ("port", _port),
        ("connections", _connections),
        ("webhooks", _webhooks),
        ("api keys", _api_keys),
    )
    for name, check in checks:
        try:
            yield await check(settings)
        except MeetingPushError as error:
            yield Finding(name, False, error.message, "check the address and that it is running")


@asynccontextmanager
async def _service(url: str) -> AsyncIterator[RedisService]:
    redis = RedisService(RedisAddress.parse(url), Keys())
    await redis.start()
    try:
        yield redis
    finally:
        await redis.close()


async def _redis(settings: Settings) -> Finding:
    if settings.redis.url is None:
        server = find_server()
        return Finding("redis", True, f"embedded: {server.name}")
    address = RedisAddress.parse(settings.redis.url)
    keys = Keys(settings.redis.key_prefix, tagged=bool(address.cluster))
    try:
        probe_id, waits = secrets.token_hex(8), settings.redis.wait_replicas > 0
        await check_rights(address, keys, probe_id, settings.redis.timeout_s, waits=waits)
    except ConfigurationError as error:
        advice = _REDIS_ADVICE.get(error.cause, "check the address")
        return Finding("redis", False, error.message, advice)
    async with _service(settings.redis.url) as redis:
        info, policy = await redis.info(), await redis.eviction_policy()
    text = f"{info.version}, {info.used_memory_human} used, aof={int(info.aof_enabled)}"
    if address.cluster:
        slots = await find_slots(address, address.cluster, settings.redis.timeout_s)
        text += f", {len(slots.masters)} masters"
    if address.sentinels is not None:
        answered, errors = await answering(address, settings.redis.timeout_s)
        text += f", {answered} of {len(address.sentinels.hosts)} Sentinels answer"
        if errors:
            return Finding("redis", False, f"{text}: {errors[0].message}", "mend that Sentinel")
    if tuple(map(int, info.version.split(".")[:2])) < (7, 0):
        return Finding("redis", False, text, "Redis 7.0 or Valkey 7.2 or newer is needed")
    if policy != NO_EVICTION:
        return Finding("redis", False, f"{text}, {policy}", "set maxmemory-policy noeviction")
    if info.fewest_replicas < settings.redis.wait_replicas:
        wanted = f"{text}, {info.fewest_replicas} of {settings.redis.wait_replicas} replicas"
        return Finding("redis", False, wanted, "start the others, or lower REDIS_WAIT_REPLICAS")
    return Finding("redis", True, text)


async def _clock(settings: Settings) -> Finding:
    if settings.redis.url is None:
        return Finding("clock", True, "one machine, one clock")
    async with _service(settings.redis.url) as redis:
        skew = abs(time.time() - await redis.time_ms() / 1000)
    text = f"{skew:.3f} s from Redis"
    return Finding("clock", skew <= MAX_CLOCK_SKEW_S, text, "synchronise the clocks (NTP)")


async def _database(settings: Settings) -> Finding:
    database = Database.of(settings.sql_url, settings.database)
    kind = "SQLite" if database.is_sqlite else "PostgreSQL"
    try:
        if database.is_sqlite and not _exists(settings.process.data_dir):
            return Finding("database", True, "SQLite: will be made on the first start")
        await database.meet_pooler()
        await database.ping()
        await database.check_schema()
        pending = await database.needs_migration()
        text = f"{kind}, schema {'is older: migrated on start' if pending else 'up to date'}"
        if not pending:
            text += f", {await _kept(database, settings)}"
        return Finding("database", True, text)
    except ConfigurationError as error:
        return Finding("database", False, error.message, "run the program it belongs to")
    finally:
        await database.dispose()


async def _kept(database: Database, settings: Settings) -> str:
    said = settings.retention.days
    days = await RetentionRepository(database).default_days() if said is None else said
    if days:
        return f"messages are kept {days} days"
    why = " (the database is older than retention)" if said is None else ""
    return f"messages are kept for ever{why}: MEETING_PUSH_RETENTION_DAYS"


async def _open_files(_: Settings) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"limit {soft} (hard {hard}): about {max(0, soft - 200)} sockets a process"
    advice = "raise it (ulimit -n, LimitNOFILE=) or run more processes with --workers"
    return Finding("open files", soft >= WANTED_OPEN_FILES, text, advice)


async def _backlog(_: Settings) -> Finding:
    size = _somaxconn()
    if size is None:
        return Finding("backlog", True, "not Linux: not checked")
    advice = f"sysctl net.core.somaxconn={WANTED_BACKLOG} or more, for reconnect storms"
    return Finding("backlog", size >= WANTED_BACKLOG, f"somaxconn {size}", advice)


async def _port(settings: Settings) -> Finding:
    where = f"{settings.process.host}:{settings.process.port}"
    family = socket.AF_INET6 if ":" in settings.process.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((settings.process.host, settings.process.port))
        except OSError as error:
            return Finding("port", False, f"{where}: {error.strerror}", "choose another --port")
    return Finding("port", True, f"{where} is free")


async def _connections(settings: Settings) -> Finding:
    """问这台机器上正在跑的那一个；没有也不是毛病。"""
    host = _LOOPBACK.get(settings.process.host, settings.process.host)
    address = f"[{host}]" if ":" in host else host
    url = f"http://{address}:{settings.process.port}/metrics"
    try:
        text = await asyncio.to_thread(_get, url)
    except (OSError, HTTPException):
        return Finding("connections", True, f"no server of ours at {url}")
    found = _BY_TRANSPORT.findall(text)
    if not found:
        return Finding("connections", True, f"none are held at {url}")
    return Finding("connections", True, ", ".join(f"{n} {way}" for way, n in found))


def _get(url: str) -> str:
    plain = build_opener(ProxyHandler({}))
    with plain.open(url, timeout=_METRICS_TIMEOUT_S) as answer:
        return str(answer.read(_METRICS_BYTES).decode(errors="replace"))


async def _webhooks(settings: Settings) -> Finding:
    try:
        receivers = load_webhooks(settings.events.file)
    except ConfigurationError as error:
        return Finding("webhooks", False, error.message, "correct the file")
    unsafe = [one.shown for one in receivers if one.url.startswith("http://")]
    text = f"{len(receivers)} receivers" + (f", without TLS: {', '.join(unsafe)}" if unsafe else "")
    return Finding("webhooks", True, text)


async def _api_keys(settings: Settings) -> Finding:
    database = Database.of(settings.sql_url, settings.database)
    try:
        if database.is_sqlite and not _exists(settings.process.data_dir):
            return Finding("api keys", True, "none")
        await database.meet_pooler()
        if await database.needs_migration():
            return Finding("api keys", True, "known after the first start")
        keys = await ApiKeyRepository(database).all()
    finally:
        await database.dispose()
    live = [key for key in keys if key.revoked_at is None]
    text = f"{len(live)} live, {len(keys) - len(live)} revoked"
    if wide := [f"{key.id} ({key.name})" for key in live if "admin" in key.scopes.split(",")]:
        text = f"{text}; may do everything (admin): {', '.join(wide)}"
    return Finding("api keys", True, text)


def _exists(path: Path) -> bool:
    return path.exists()


def _somaxconn() -> int | None:
    path = Path("/proc/sys/net/core/somaxconn")
    return int(path.read_text()) if path.exists() else None
