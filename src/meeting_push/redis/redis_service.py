"""Redis 的门面：热路的精简连接、其余用的 redis-py 客户端、键名，都从这里拿。

redis-py 原样使用，只把它的异常换成我们的；它的池到同一个地址去，连着的不再是主了就丢掉那条连接。
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from redis.asyncio import (
    BlockingConnectionPool,
    Connection,
    Redis,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, MasterDownError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..errors import MeetingPushError, RedisUnavailableError
from .address import RedisAddress
from .keys import Keys
from .lean import PUBLISH, LeanConnection
from .link import Argument, error_from_reply
from .sentinel import find_master


class _Leaving(AbstractConnection):
    """READONLY、MASTERDOWN、LOADING：什么也没有执行，断开，下一条命令重新拨号。"""

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except (ReadOnlyError, MasterDownError, BusyLoadingError):
            await self.disconnect(nowait=True)
            raise


class _Tcp(_Leaving, Connection):
    pass


class _Tls(_Leaving, SSLConnection):
    pass


class _Unix(_Leaving, UnixDomainSocketConnection):
    pass


class _Master(_Leaving):
    """每次拨号都问 Sentinel；``master_of``：地址与时限（秒）。"""

    def __init__(self, *, master_of: tuple[RedisAddress, float], **options: Any) -> None:
        super().__init__(**options)
        self._master_of = master_of
        self.host = ""
        self.port = 0

    async def _connect(self) -> None:
        master = await find_master(*self._master_of)
        self.host, self.port = master.host, master.port
        await super()._connect()  # type: ignore[no-untyped-call,safe-super]


class _TcpMaster(_Master, Connection):
    pass


class _TlsMaster(_Master, SSLConnection):
    pass


def connection_pool(
    address: RedisAddress, timeout_s: float, max_connections: int
) -> BlockingConnectionPool:
    return BlockingConnectionPool(
        **_where(address, timeout_s),
        max_connections=max_connections,
        timeout=timeout_s,
        db=address.db,
        username=address.username,
        password=address.password,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        protocol=2,
        # 池里的连接在 Redis 重启后是死的：断线再试一次；超时不试，免得等两倍的时间
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )


def _where(address: RedisAddress, timeout_s: float) -> dict[str, Any]:
    if address.sentinels is not None:
        connection: type = _TlsMaster if address.tls else _TcpMaster
        return {"connection_class": connection, "master_of": (address, timeout_s)}
    if address.path is not None:
        return {"connection_class": _Unix, "path": address.path}
    connection = _Tls if address.tls else _Tcp
    return {"connection_class": connection, "host": address.host, "port": address.port}


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
    #: 落后得最多的副本差多少；没有副本则 0。
    replication_lag_bytes: int

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> RedisInfo:
        """``INFO`` 的回答；Valkey、旧一点的 Redis 少说几项。"""
        offset = int(info.get("master_repl_offset", 0))
        replicas = [each for each in map(info.get, _REPLICAS) if isinstance(each, dict)]
        return cls(
            # Valkey 以 redis_version 说它与哪一版 Redis 相容
            version=str(info.get("valkey_version", info["redis_version"])),
            used_memory_bytes=int(info["used_memory"]),
            used_memory_human=str(info["used_memory_human"]),
            aof_enabled=bool(info["aof_enabled"]),
            max_memory_bytes=int(info["maxmemory"]),
            connected_clients=int(info["connected_clients"]),
            ops_per_second=int(info["instantaneous_ops_per_sec"]),
            uptime_s=int(info["uptime_in_seconds"]),
            blocked_clients=int(info.get("blocked_clients", 0)),
            evicted_keys=int(info.get("evicted_keys", 0)),
            aof_last_write_ok=info.get("aof_last_write_status", "ok") == "ok",
            rdb_last_save_ok=info.get("rdb_last_bgsave_status", "ok") == "ok",
            is_master=info.get("role", "master") == "master",
            master_link_up=info.get("master_link_status", "up") == "up",
            connected_replicas=int(info.get("connected_slaves", 0)),
            replication_lag_bytes=max(
                (max(0, offset - int(each.get("offset", 0))) for each in replicas), default=0
            ),
        )


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

    def __init__(self, address: RedisAddress, keys: Keys, timeout_s: float = 5.0) -> None:
        self.address = address
        self.keys = keys
        self._timeout_s = timeout_s
        self.lean = LeanConnection(address, timeout_s=timeout_s, name="meeting-push-lean")
        self.client = RedisClient.connect(address, timeout_s)

    async def start(self) -> None:
        """:raises RedisUnavailableError: 连不上；:raises ConfigurationError: 密码不对"""
        await self.lean.connect()

    async def close(self) -> None:
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
        connection = LeanConnection(address, timeout_s=timeout_s, name=f"meeting-push-{name}")
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

    # ── 观察 ────────────────────────────────────────────────────────────────

    async def time_ms(self) -> int:
        """Redis 的钟。"""
        seconds, micros = await self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def ping(self) -> None:
        """两种连接都问一遍；不通就抛出。"""
        await self.lean.execute("PING")
        await self.client.ping()

    async def info(self) -> RedisInfo:
        return RedisInfo.of(await self.client.info())

    async def eviction_policy(self) -> str:
        """内存满了淘汰谁；必须是 ``noeviction``：别的会悄悄拿走信箱。"""
        info = await self.client.info("memory")
        return str(info.get("maxmemory_policy", NO_EVICTION))

    @property
    def commands(self) -> int:
        """精简连接发出的命令，只增。"""
        return self.lean.commands

    @property
    def reconnects(self) -> int:
        return self.lean.reconnects

    def pool_statistics(self) -> PoolStatistics:
        return pool_statistics(self.client)


# ── redis-py ─────────────────────────────────────────────────────────────────

MAX_CONNECTIONS: Final = 32


@contextmanager
def converted_errors() -> Iterator[None]:
    """redis-py 的异常 → ``RedisUnavailableError`` · ``RedisCommandError``。"""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError) as error:
        if isinstance(error.__cause__, MeetingPushError):  # 拨号时池里我们自己说的
            raise error.__cause__ from None
        if error.status_code:  # 拨号时的回答：LOADING、NOAUTH …
            raise _from_reply(error) from error
        cause = "timeout" if isinstance(error, RedisTimeoutError) else "unreachable"
        message = f"Redis is unavailable: {type(error).__name__}"
        raise RedisUnavailableError(message, cause=cause) from error
    except RedisError as error:
        raise _from_reply(error) from error


def _from_reply(error: RedisError) -> MeetingPushError:
    """redis-py 把认识的代号从文字里拿走，另放在 ``status_code``。"""
    code = getattr(error, "status_code", None)
    return error_from_reply(f"{code} {error}" if code else str(error))


class RedisPipeline(Pipeline):
    """``execute`` 抛出我们的错误。"""

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        with converted_errors():
            return list(await super().execute(raise_on_error))


class RedisClient(Redis):
    """redis-py 的全部命令；抛出我们的错误。"""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        with converted_errors():
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> RedisPipeline:
        return RedisPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    @classmethod
    def connect(
        cls, address: RedisAddress, timeout_s: float, max_connections: int = MAX_CONNECTIONS
    ) -> RedisClient:
        """建立连接池（第一条命令才真正连接）；池空时至多等 ``timeout_s``。"""
        return cls(connection_pool=connection_pool(address, timeout_s, max_connections))


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """连接池此刻的样子。"""

    in_use: int
    idle: int
    max_connections: int


def pool_statistics(client: RedisClient) -> PoolStatistics:
    pool = client.connection_pool
    return PoolStatistics(
        in_use=len(list(pool._get_in_use_connections())),
        idle=len(list(pool._get_free_connections())),
        max_connections=pool.max_connections,
    )
