"""redis-py，原样使用；只把它的异常换成我们的。热路不走这里（见 ``lean.py``）。"""

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
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from ...errors import MeetingPushError, RedisUnavailableError
from .address import RedisAddress
from .replies import error_from_reply

MAX_CONNECTIONS: Final = 32


@contextmanager
def converted_errors() -> Iterator[None]:
    """redis-py 的异常 → ``RedisUnavailableError`` · ``RedisCommandError``。"""
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        if error.status_code:  # 拨号时的回答：LOADING、NOAUTH …
            raise _from_reply(error) from error
        cause = "timeout" if isinstance(error, TimeoutError) else "unreachable"
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
        return cls(connection_pool=_pool(address, timeout_s, max_connections))


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


def _pool(address: RedisAddress, timeout_s: float, max_connections: int) -> BlockingConnectionPool:
    where: dict[str, Any]
    if address.path is not None:
        where = {"connection_class": UnixDomainSocketConnection, "path": address.path}
    else:
        connection = SSLConnection if address.tls else Connection
        where = {"connection_class": connection, "host": address.host, "port": address.port}
    return BlockingConnectionPool(
        **where,
        max_connections=max_connections,
        timeout=timeout_s,
        db=address.db,
        username=address.username,
        password=address.password,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        protocol=2,
        # 池里的连接在 Redis 重启后是死的：断线再试一次；超时不试，免得等两倍的时间
        retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
    )
