"""redis-py 的连接池：到同一个地址去；连着的不再是主了，丢掉那条连接。"""

from __future__ import annotations

from typing import Any

from redis.asyncio import (
    BlockingConnectionPool,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, MasterDownError, ReadOnlyError
from redis.exceptions import ConnectionError as RedisConnectionError

from .address import RedisAddress
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
