"""redis-py：它的池与它认得的命令，抛出我们的错误。

池到同一个地址去，连着的不再是主了就丢掉那条连接。在 Cluster 上没有池：命令从精简连接走，只借它解析
回答；用 redis-py 自己的 Cluster 客户端就要有第二份槽图、第二套重定向，说法还可能不同。
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

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
from .lean import LeanConnection
from .link import error_from_reply
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


class RoutedClient(RedisClient):
    """Cluster 上的：每条命令从 ``lean`` 到该去的主。"""

    def __init__(self, lean: LeanConnection) -> None:
        super().__init__(connection_pool=BlockingConnectionPool(max_connections=1, protocol=2))
        self._lean = lean

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        reply = await self._lean.execute(*str(args[0]).split(" "), *args[1:])
        parse = self.response_callbacks.get(args[0])
        options.pop("keys", None)
        return reply if parse is None else parse(reply, **options)


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
