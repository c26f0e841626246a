"""Redis 的门面：热路的精简连接、其余用的 redis-py 客户端、键名，都从这里拿。"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from ..errors import MeetingPushError, RedisUnavailableError
from .address import RedisAddress
from .client_pool import PoolStatistics, RedisClient, RoutedClient, pool_statistics
from .cluster import lean_connection
from .keys import Keys
from .lean import PUBLISH, LeanConnection
from .link import Argument
from .replicas import Replicas, Wait

#: ``INFO`` 里至多看这么多个副本。
_REPLICAS: Final = [f"slave{number}" for number in range(16)]


@dataclass(frozen=True, slots=True)
class RedisInfo:
    """``INFO`` 里运维关心的几项。"""

    version: str
    used_memory_bytes: int
    used_memory_human: str
    aof_enabled: bool
    max_memory_bytes: int
    connected_clients: int
    ops_per_second: int
    uptime_s: int
    blocked_clients: int
    evicted_keys: int
    aof_last_write_ok: bool
    rdb_last_save_ok: bool
    is_master: bool
    #: 只读副本到它的主；自己是主则总是 True。
    master_link_up: bool
    connected_replicas: int
    #: 副本最少的那个主的。
    fewest_replicas: int
    #: 落后得最多的副本差多少；没有副本则 0。
    replication_lag_bytes: int

    @classmethod
    def of(cls, *infos: Mapping[str, Any]) -> RedisInfo:
        """``INFO`` 的回答；Valkey、旧一点的 Redis 少说几项。几台的合起来：有一台不好就是不好。"""
        used = sum(int(info["used_memory"]) for info in infos)
        limits = [int(info["maxmemory"]) for info in infos]
        return cls(
            version=min(map(_version, infos), key=_numbers),
            used_memory_bytes=used,
            used_memory_human=(
                str(infos[0]["used_memory_human"]) if len(infos) == 1 else f"{used / 2**20:.2f}M"
            ),
            aof_enabled=all(info["aof_enabled"] for info in infos),
            max_memory_bytes=sum(limits) if all(limits) else 0,
            connected_clients=_sum(infos, "connected_clients"),
            ops_per_second=_sum(infos, "instantaneous_ops_per_sec"),
            uptime_s=min(int(info["uptime_in_seconds"]) for info in infos),
            blocked_clients=_sum(infos, "blocked_clients"),
            evicted_keys=_sum(infos, "evicted_keys"),
            aof_last_write_ok=_all(infos, "aof_last_write_status", "ok"),
            rdb_last_save_ok=_all(infos, "rdb_last_bgsave_status", "ok"),
            is_master=_all(infos, "role", "master"),
            master_link_up=_all(infos, "master_link_status", "up"),
            connected_replicas=_sum(infos, "connected_slaves"),
            fewest_replicas=min(int(info.get("connected_slaves", 0)) for info in infos),
            replication_lag_bytes=max(map(_lag, infos)),
        )


def _version(info: Mapping[str, Any]) -> str:
    """Valkey 以 redis_version 说它与哪一版 Redis 相容。"""
    return str(info.get("valkey_version", info["redis_version"]))


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def _sum(infos: Sequence[Mapping[str, Any]], name: str) -> int:
    return sum(int(info.get(name, 0)) for info in infos)


def _all(infos: Sequence[Mapping[str, Any]], name: str, good: str) -> bool:
    return all(info.get(name, good) == good for info in infos)


def _lag(info: Mapping[str, Any]) -> int:
    offset = int(info.get("master_repl_offset", 0))
    replicas = [each for each in map(info.get, _REPLICAS) if isinstance(each, dict)]
    return max((max(0, offset - int(each.get("offset", 0))) for each in replicas), default=0)


_NO_WAIT: Final = Wait()
#: 顺便的事至多等 Redis 这么久。
COURTESY_S: Final = 0.05

NO_EVICTION: Final = "noeviction"

Answer = TypeVar("Answer")


async def courtesy(work: Awaitable[Answer]) -> Answer:
    """REST 应答之前顺便的事（告诉别的设备、别的节点，合起来数次数）：Redis 挂着不答就不等它。

    命令已经发出，多半照样会执行。

    :raises RedisUnavailableError: 没有及时回答，或不可用
    """
    try:
        async with asyncio.timeout(COURTESY_S):
            return await work
    except TimeoutError:
        raise RedisUnavailableError("Redis did not answer in time", cause="timeout") from None


class RedisService:
    """``start`` 之后可用；两种连接都自己重连。错误是 ``RedisUnavailableError``
    （稍后再试）或 ``RedisCommandError``（程序或数据的错）。

    ``client``（redis-py 的池）走没有人等着、做两遍无害的：报告、统计、钟、INFO。其余走 ``lean``：
    断着时立即抛出，一条命令只发一次（决定 0012）。

    订阅不在这里：``redis.subscriber.Subscriber`` 用自己的连接（LESSONS 5）。
    """

    def __init__(
        self, address: RedisAddress, keys: Keys, timeout_s: float = 5.0, wait: Wait = _NO_WAIT
    ) -> None:
        self.address = address
        self.keys = replace(keys, tagged=keys.tagged or bool(address.cluster))
        self._timeout_s = timeout_s
        self.lean = lean_connection(address, timeout_s=timeout_s, name="meeting-push-lean")
        #: 投递用的；要等副本就另有一条，等着的时候别的命令不跟着等。
        self.writing = self.lean
        self.replicas: Replicas | None = None
        if wait.replicas:
            patience_s = timeout_s + wait.within_ms / 1000
            self.writing = lean_connection(
                address, timeout_s=patience_s, name="meeting-push-writing"
            )
            self.replicas = Replicas(self.writing, wait)
        self.client = (
            RoutedClient(self.lean) if address.cluster else RedisClient.connect(address, timeout_s)
        )

    async def start(self) -> None:
        """:raises RedisUnavailableError: 连不上；:raises ConfigurationError: 密码不对"""
        await self.lean.connect()
        if self.writing is not self.lean:
            await self.writing.connect()

    async def close(self) -> None:
        await self.writing.close()
        await self.lean.close()
        await self.client.aclose(close_connection_pool=True)

    async def open_lean(
        self, name: str, key: str = "", *, max_block_s: float = 0
    ) -> LeanConnection:
        """另开一条专用的精简连接（阻塞命令用），已连上；由调用者 ``close``。

        ``key``：在 Cluster 上，到此刻管着它的主去，不跟着它搬。``max_block_s``：会发的最长的阻塞；
        连同超时都没有回答，才算对方死了。
        """
        address = self.lean.at(key).address if key else self.address
        timeout_s = self._timeout_s + max_block_s
        connection = lean_connection(address, timeout_s=timeout_s, name=f"meeting-push-{name}")
        await connection.connect()
        return connection

    # ── 值 ──────────────────────────────────────────────────────────────────

    async def put(self, key: str, value: bytes, ttl_ms: int) -> None:
        await self.lean.execute("SET", key, value, "PX", ttl_ms)

    async def take(self, key: str) -> bytes | None:
        """取出并删除：至多一个人得到。"""
        value: bytes | None = await self.lean.execute("GETDEL", key)
        return value

    # ── 次数 ────────────────────────────────────────────────────────────────

    async def count(self, key: str, window_ms: int) -> tuple[int, int]:
        """加一，返回次数与还有几毫秒忘掉；从第一次算起 ``window_ms``。"""
        count, _, ttl_ms = await self.lean.execute_many(
            [("INCR", key), ("PEXPIRE", key, window_ms, "NX"), ("PTTL", key)]
        )
        return count, ttl_ms

    async def counted(self, key: str) -> tuple[int, int]:
        """同 ``count``，不加。"""
        count, ttl_ms = await self.lean.execute_many([("GET", key), ("PTTL", key)])
        return int(count or 0), ttl_ms

    async def restart_count(self, key: str) -> tuple[int, int]:
        """从零数起；返回同 ``counted``。"""
        await self.lean.execute("DEL", key)
        return 0, 0

    # ── 大家的回答 ──────────────────────────────────────────────────────────

    async def add_answer(self, key: str, answer: bytes, *, most: int, ttl_ms: int) -> None:
        """放进一份；``most`` 份以后的不留。"""
        await self.lean.execute_many(
            [("RPUSH", key, answer), ("LTRIM", key, 0, most - 1), ("PEXPIRE", key, ttl_ms)]
        )

    async def answers(self, key: str, after: int) -> list[bytes]:
        """第 ``after`` 份以后的。"""
        found: list[bytes] = await self.lean.execute("LRANGE", key, after, -1)
        return found

    # ── 发布 ────────────────────────────────────────────────────────────────

    def publish(self, channel: str, payload: Argument) -> asyncio.Future[int]:
        """已发出；回答是有几个节点在听。瞬时的：没有人听就没有了。

        :raises RedisUnavailableError: 没有连接（同步抛出），或不知道发出没有
        """
        verb = self.lean.publishing
        if verb != PUBLISH and not self.keys.is_sharded(channel):
            verb = PUBLISH
        return self.lean.execute(verb, channel, payload)

    async def publish_all(self, items: Sequence[tuple[str, Argument]]) -> list[int]:
        """各条的 ``publish``，次序不变；有一条不成就抛出，别的也许发出了。"""
        sent: list[asyncio.Future[int]] = []
        try:
            for item in items:
                sent.append(self.publish(*item))  # noqa: PERF401 — 抛出之前的也在
        except MeetingPushError:
            asyncio.gather(*sent, return_exceptions=True)  # 它们的错误也算有人看过
            raise
        return await asyncio.gather(*sent)

    # ── 观察 ────────────────────────────────────────────────────────────────

    async def time_ms(self) -> int:
        """Redis 的钟。"""
        seconds, micros = await self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def ping(self) -> None:
        """两种连接、各主都问一遍；不通就抛出。"""
        await self.lean.everywhere("PING")
        await self.client.ping()

    async def info(self) -> RedisInfo:
        """Cluster 的是各主合起来的。"""
        return RedisInfo.of(*await self._infos())

    async def eviction_policy(self) -> str:
        """内存满了淘汰谁；必须是 ``noeviction``：别的会悄悄拿走信箱。各主不同的，先说不对的。"""
        policies = {
            str(info.get("maxmemory_policy", NO_EVICTION)) for info in await self._infos("memory")
        }
        return min(policies - {NO_EVICTION}, default=NO_EVICTION)

    async def _infos(self, *section: str) -> list[Mapping[str, Any]]:
        if not self.address.cluster:
            return [await self.client.info(*section)]
        parse: Any = self.client.response_callbacks["INFO"]
        return [parse(text) for text in await self.lean.everywhere("INFO", *section)]

    @property
    def commands(self) -> int:
        """精简连接发出的命令，只增。"""
        return self.lean.commands

    @property
    def reconnects(self) -> int:
        return self.lean.reconnects

    def pool_statistics(self) -> PoolStatistics:
        return pool_statistics(self.client)
