"""Redis 与数据库的指标：往返、命令、重连、池、失败；是否好着由就绪检查说。"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ..node.fleet_membership import FleetMembership
from ..redis.probe import RedisProbe
from ..redis.redis_service import RedisInfo, RedisService
from ..redis.subscriber import Subscriber
from ..storage.database import Database
from .health import Health
from .metrics import HistogramSample, Sample, counted

#: 失败的原因里常见的：从 0 开始就有。
_CAUSES: Final = ("unreachable", "timeout", "readonly", "disk_full", "locked", "noauth", "noperm")


def health_samples(health: Health) -> Iterator[Sample]:
    """就绪检查的各项、受监督的循环。"""
    text = "1 = takes work, as /readyz says"
    yield Sample("ready", "gauge", text, int(health.ready), scope="process")
    text = "1 = this part of the readiness check fails"
    for part, reason in health.parts().items():
        labels = {"part": part}
        yield Sample("part_failing", "gauge", text, int(bool(reason)), labels, "process")
    for loop in health.loops():
        labels = {"loop": loop.name}
        failing = int(loop.failing or not loop.running)
        text = "1 = the loop died and is not stable again"
        yield Sample("loop_failing", "gauge", text, failing, labels, "process")


def loop_samples(restarts: Mapping[str, int]) -> Iterator[Sample]:
    """死过的循环。"""
    for loop, count in restarts.items():
        text = "supervised loops restarted after an error"
        yield Sample("loop_restarts", "counter", text, count, {"loop": loop})


def redis_samples(
    redis: RedisService, probe: RedisProbe, health: Health, reconnects: Mapping[str, int]
) -> Iterator[Sample]:
    """``reconnects``：哪条连接 → 重连了几次。"""
    text = "1 = Redis took this process's last write check"
    yield from _up("redis_up", text, health.well("redis"))
    text = "last write check through the data connection"
    yield Sample("redis_last_round_trip_seconds", "gauge", text, probe.last_s, scope="process")
    yield Sample("redis_failures", "counter", "write checks that failed", probe.failures)
    text = "commands sent on the data connection"
    yield Sample("redis_commands", "counter", text, redis.commands)
    for connection, count in reconnects.items():
        labels = {"connection": connection}
        yield Sample("redis_reconnects", "counter", "connections made again", count, labels)
    pool, text = redis.pool_statistics(), "connections of the pool off the hot path"
    for state, count in (("in_use", pool.in_use), ("idle", pool.idle)):
        yield Sample("redis_pool_connections", "gauge", text, count, {"state": state})


def _up(name: str, text: str, well: bool | None) -> Iterator[Sample]:
    """还没有检查过就不说：说 0 是一次没有发生的故障，告警会信。"""
    if well is not None:
        yield Sample(name, "gauge", text, int(well), scope="process")


def subscriber_samples(subscriber: Subscriber) -> Iterator[Sample]:
    """网关的订阅。"""
    count = subscriber.channel_count
    yield Sample("subscribed_channels", "gauge", "channels subscribed to", count)


def info_samples(info: RedisInfo) -> Iterator[Sample]:
    """Redis 自己说的（``INFO``）：大家看着的同一个。"""
    figures: list[tuple[str, str, float]] = [
        ("memory_used_bytes", "memory Redis uses", info.used_memory_bytes),
        ("memory_max_bytes", "its maxmemory; 0 = none", info.max_memory_bytes),
        ("connected_clients", "its clients", info.connected_clients),
        ("blocked_clients", "its clients that wait in a command", info.blocked_clients),
        ("commands_per_second", "commands it executes each second", info.ops_per_second),
        ("evicted_keys", "keys it has evicted since it started", info.evicted_keys),
        ("aof_enabled", "1 = append-only file on", info.aof_enabled),
        ("aof_last_write_ok", "1 = the last append was written", info.aof_last_write_ok),
        ("rdb_last_save_ok", "1 = the last snapshot was written", info.rdb_last_save_ok),
        ("is_master", "1 = takes writes, 0 = a replica", info.is_master),
        ("master_link_up", "0 = a replica that lost its master", info.master_link_up),
        ("connected_replicas", "its replicas", info.connected_replicas),
        ("replication_lag_bytes", "the furthest replica behind", info.replication_lag_bytes),
        ("uptime_seconds", "since Redis started", info.uptime_s),
    ]
    most = info.max_memory_bytes
    usage = info.used_memory_bytes / most if most else 0.0
    figures.append(("memory_usage_ratio", "memory used of maxmemory; 0 without one", usage))
    for name, text, value in figures:
        yield Sample(f"redis_{name}", "gauge", text, float(value), scope="shared")


def redis_histograms(probe: RedisProbe) -> Iterator[HistogramSample]:
    text = "write check through the data connection, once a second"
    yield HistogramSample("redis_round_trip_seconds", text, probe.round_trip)


def database_samples(
    database: Database, membership: FleetMembership, health: Health
) -> Iterator[Sample]:
    text = "1 = the database took this process's last write check"
    yield from _up("database_up", text, health.well("database"))
    last_s, text = membership.last_s, "last write check"
    yield Sample("database_last_round_trip_seconds", "gauge", text, last_s, scope="process")
    text = "operations that failed for want of the database"
    yield from counted("database_failures", text, "cause", database.figures.failures, _CAUSES)
    for state, count in zip(("in_use", "idle"), database.pool(), strict=True):
        labels = {"state": state}
        yield Sample("database_pool_connections", "gauge", "connections of the pool", count, labels)


def database_histograms(
    database: Database, membership: FleetMembership
) -> Iterator[HistogramSample]:
    text = "write check: a transaction, once a second"
    yield HistogramSample("database_round_trip_seconds", text, membership.round_trip)
    text = "statements; on SQLite also write transactions of the hot path"
    figures = database.figures
    yield HistogramSample("database_statement_duration_seconds", text, figures.statements)
    text = "waits for a connection, or for the turn to write"
    yield HistogramSample("database_wait_seconds", text, figures.waits)
