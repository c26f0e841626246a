"""四周：Redis 与数据库的指标（往返、命令、重连、池、失败；是否好着由就绪检查说）。

隔几秒去看一遍、抓取时只说看到了什么的：这台机器、没有确认的；大家看着的同一样东西。Redis 不在就不
知道，不说旧的。
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..errors import MeetingPushError
from ..node.fleet_membership import FleetMembership
from ..queue.message_queue import MessageQueue, QueueLength
from ..redis.probe import RedisProbe
from ..redis.redis_service import RedisInfo, RedisService
from ..redis.subscriber import Subscriber
from ..storage.database import Database
from ..supervision import periodically
from ..websocket.manager import Unanswered
from .health import Health
from .metrics import HistogramSample, Sample, counted
from .process import Host

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
    text = "mailbox writes that too few replicas had in time"
    short = redis.replicas.short if redis.replicas is not None else 0
    yield Sample("redis_replicas_short", "counter", text, short)
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


EVERY_S: Final = 5.0
#: 每看几遍数一遍来过的人：并几十格，约 2 ms 的 Redis。
ACTIVE_EVERY: Final = 12


@dataclass(frozen=True, slots=True)
class Counts:
    """去数：死信几封，在线几人，各窗口里来过几人。"""

    dead: Callable[[], Awaitable[int]]
    online: Callable[[], Awaitable[int]]
    active: Callable[[], Awaitable[Mapping[str, int]]]


class SharedFigures:
    """大家看着的同一样东西：队列、死信、在线与来过的人、Redis 自己说的（``INFO``）。

    一个 serve 里只有 ``is_mine`` 的那个进程去看（决定 0013）：谁看都一样，不必人人问 Redis。
    它死了，下一遍就由别人看。
    """

    def __init__(
        self,
        redis: RedisService,
        queue: MessageQueue,
        counts: Counts,
        is_mine: Callable[[], bool],
    ) -> None:
        self._redis = redis
        self._queue = queue
        self._counts = counts
        self._is_mine = is_mine
        self._forget()

    def _forget(self) -> None:
        self._rounds = 0
        self._info: RedisInfo | None = None
        self._lengths: Sequence[QueueLength] = ()
        self._dead: int | None = None
        self._online: int | None = None
        self._active: Mapping[str, int] = {}

    async def look(self) -> None:
        if not self._is_mine():
            self._forget()
            return
        try:
            await self._read()
        except MeetingPushError:  # 不在自有别人说
            self._forget()

    async def _read(self) -> None:
        self._info = await self._redis.info()
        self._lengths = await self._queue.lengths()
        self._dead = await self._counts.dead()
        self._online = await self._counts.online()
        if self._rounds % ACTIVE_EVERY == 0:
            self._active = await self._counts.active()
        self._rounds += 1

    def samples(self) -> Iterator[Sample]:
        if self._info is not None:
            yield from info_samples(self._info)
        for name, parts in self._queues().items():
            yield from self._queue_samples(name, parts)
        if self._dead is not None:
            text = "entries in the dead-letter queues"
            yield Sample("dead_letters", "gauge", text, self._dead, scope="shared")
        if self._online is not None:
            text = "users online on any node"
            yield Sample("online_users", "gauge", text, self._online, scope="shared")
        text = "users who were online or acknowledged something in the window (estimate)"
        for window, count in self._active.items():
            yield Sample("active_users", "gauge", text, count, {"window": window}, "shared")

    def _queues(self) -> dict[str, list[QueueLength]]:
        """一条队列的各分区合在一起：规则、曲线认得队列的名字，不认得分区。"""
        queues: dict[str, list[QueueLength]] = {}
        for one in self._lengths:
            name, _, _ = one.name.removeprefix(self._redis.keys.prefix).partition(":")
            queues.setdefault(name, []).append(one)
        return queues

    def _queue_samples(self, name: str, parts: Sequence[QueueLength]) -> Iterator[Sample]:
        figures = [
            ("length", "entries in the queue", sum(one.length for one in parts)),
            ("pending", "taken and not settled yet", sum(one.pending for one in parts)),
            (
                "oldest_age_seconds",
                "its oldest entry that is due",
                max(one.oldest_age_ms for one in parts) / 1000,
            ),
        ]
        if parts[0].name in self._queue.streams.bounded:
            fill = max(one.length for one in parts) / self._queue.max_length
            figures.append(("fill_ratio", "its length, of the limit (the fullest partition)", fill))
        for figure, text, value in figures:
            yield Sample(f"queue_{figure}", "gauge", text, value, {"queue": name}, "shared")


class Surroundings:
    """``run`` 须由监督者一直运行。``unacked``：连着的人没有确认的；没有连接的角色没有它。"""

    def __init__(
        self,
        host: Host,
        shared: SharedFigures,
        unacked: Callable[[], Awaitable[Unanswered]] | None,
    ) -> None:
        self._host = host
        self._shared = shared
        self._count_unacked = unacked
        self._unacked: Unanswered | None = None

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.look, partial(asyncio.sleep, EVERY_S))

    async def look(self) -> None:
        await asyncio.to_thread(self._host.look)  # 挂着的盘不能占住循环
        if self._count_unacked is not None:
            self._unacked = await self._count_unacked()
        await self._shared.look()

    def samples(self) -> Iterator[Sample]:
        yield from self._host.samples()
        if self._unacked is not None:
            count, oldest_s = self._unacked
            text = "messages pushed to connected devices and not acknowledged"
            yield Sample("unacked_messages", "gauge", text, count)
            text = "since the longest waiting of them was pushed"
            yield Sample("unacked_oldest_age_seconds", "gauge", text, oldest_s, scope="process")
        yield from self._shared.samples()
