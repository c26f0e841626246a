"""一次运行的全部进程与链路：Redis 这一边、各角色的服务器，以及夹在中间的代理。"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meeting_push.settings import Role

from ..target import Target
from ..tcp_proxy import TcpProxy
from .child import Child, free_port
from .clustered_redis import ClusteredRedis
from .history import HistoryWriter
from .plan import ChaosPlan
from .redis_side import PROBE_TIMEOUT_S, AloneRedis, Back, Line, RedisSide
from .replicated_redis import ReplicatedRedis
from .watched_redis import WatchedRedis

#: 正式的服务器；测试给它换成打破了某条承诺的。
PRODUCT: Final = (sys.executable, "-m", "meeting_push")
#: Cluster 上队列分几份：散在几个槽里。
PARTITIONS: Final = 3
HEARTBEAT_INTERVAL_S: Final = 2.0

#: 与默认值不同的只有时间（几分钟里要看到结果）与信箱的上限（挤出去的是 ``gap`` 的事）。
_SETTINGS: Final[Mapping[str, object]] = {
    "claim_idle_ms": 2_000,
    "relay_interval_s": 0.5,
    "relay_grace_s": 1,
    "redis_timeout_s": 2,
    "heartbeat_interval_s": HEARTBEAT_INTERVAL_S,
    "heartbeat_timeout_s": 6,
    "mailbox_max_entries": 100_000,
    "access_token_ttl_s": 86_400,
    "log_level": "WARNING",
}


@dataclass(frozen=True, slots=True)
class Ground:
    """在哪里、用什么跑。``database_url`` 为 None：目录里的 SQLite。"""

    directory: Path
    database_url: str | None = None
    program: Sequence[str] = PRODUCT

    @property
    def sql_url(self) -> str:
        return self.database_url or f"sqlite:///{self.directory}/data/meeting-push.db"


@dataclass(frozen=True, slots=True)
class Server:
    """一个角色的一个进程；``front`` 是客户端走的链路，``back`` 是它去 Redis 的链路。"""

    role: Role
    child: Child
    front: TcpProxy
    back: Back
    target: Target


class Town:
    """``open_town`` 造出来的；``servers`` 的次序固定：api、gateway、worker。"""

    def __init__(self, ground: Ground, redis: RedisSide, servers: Sequence[Server]) -> None:
        self.ground = ground
        self.redis = redis
        self.servers = list(servers)
        self.apis = [server for server in servers if server.role is Role.API]
        self.gateways = [server for server in servers if server.role is Role.GATEWAY]
        self.workers = [server for server in servers if server.role is Role.WORKER]

    @property
    def links(self) -> list[Line]:
        """会出故障的链路：各服务器去 Redis 的，以及客户端去 api 与 gateway 的。"""
        fronts = [server.front for server in (*self.apis, *self.gateways)]
        return [*(server.back for server in self.servers), *fronts]

    @property
    def partitions(self) -> int:
        """队列分几份。"""
        return PARTITIONS if isinstance(self.redis, ClusteredRedis) else 1

    def logs(self) -> dict[str, str]:
        """各服务器至今说的。"""
        return {one.child.name: one.child.log.read_text(errors="replace") for one in self.servers}

    async def wait_ready(self) -> None:
        await asyncio.gather(*(server.child.wait_ready() for server in self.servers))


@contextlib.asynccontextmanager
async def open_town(plan: ChaosPlan, ground: Ground, history: HistoryWriter) -> AsyncIterator[Town]:
    """启动全部并等到就绪；离开时全部结束。

    :raises BenchError: 有的起不来
    """
    secret = secrets.token_urlsafe(32)
    async with contextlib.AsyncExitStack() as stack:
        redis = _redis(plan, ground, history)
        stack.push_async_callback(redis.stop)
        await redis.start()
        servers: list[Server] = []
        for role, count in _roles(plan):
            for number in range(count):
                server = await _server(f"{role}-{number}", role, redis, ground, history, secret)
                stack.push_async_callback(_close, server)
                servers.append(server)
        await servers[0].child.start()  # 先由一个建好表，其余的一起
        await asyncio.gather(*(server.child.start() for server in servers[1:]))
        yield Town(ground, redis, servers)


def _roles(plan: ChaosPlan) -> tuple[tuple[Role, int], ...]:
    return (Role.API, plan.apis), (Role.GATEWAY, plan.gateways), (Role.WORKER, plan.workers)


async def _close(server: Server) -> None:
    await server.child.stop()
    await server.front.close()
    await server.back.close()


def _redis(plan: ChaosPlan, ground: Ground, history: HistoryWriter) -> RedisSide:
    if plan.redis == "sentinel":
        return WatchedRedis(ground.directory, history, plan.replicas)
    if plan.redis == "cluster":
        return ClusteredRedis(ground.directory, history, plan.masters, plan.replicas_each)
    return AloneRedis(ground.directory, history)


# ── 服务器 ──────────────────────────────────────────────────────────────────


async def _server(
    name: str, role: Role, redis: RedisSide, ground: Ground, history: HistoryWriter, secret: str
) -> Server:
    port = free_port()
    back = await redis.back(name)
    front = await TcpProxy(port, f"client→{name}").start()
    given = {"role": role.value, "host": "127.0.0.1", "port": port, "redis_url": back.url}
    if isinstance(redis, ClusteredRedis):
        given["queue_partitions"] = PARTITIONS
    if isinstance(redis, ReplicatedRedis):
        given["log_level"] = "INFO"  # 要从日志得知对账者放回了几条
    env = _environment(ground, {**_SETTINGS, **given, "jwt_secret": secret})

    async def ready() -> bool:
        return await _http_ok(port)

    child = Child(name, [*ground.program, "serve"], ground.directory, ready, history, env)
    target = Target(
        host="127.0.0.1",
        port=front.port,
        redis_url=redis.url,
        jwt_secret=secret,
        jwt_audience="meeting-push",
    )
    return Server(role, child, front, back, target)


def _environment(ground: Ground, settings: Mapping[str, object]) -> dict[str, str]:
    """用户自己的 ``MEETING_PUSH_*`` 不算；不限一个用户发多少：写手只有几个。"""
    given = {
        "sends_per_user_per_s": 0,
        **settings,
        "data_dir": ground.directory / "data",
        "database_url": ground.sql_url,
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MEETING_PUSH_")}
    return inherited | {f"MEETING_PUSH_{name.upper()}": str(v) for name, v in given.items()}


async def _http_ok(port: int) -> bool:
    """``/readyz`` 此刻是否回答 200；不经过链路。"""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return (await reader.readline()).startswith(b"HTTP/1.1 200")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
