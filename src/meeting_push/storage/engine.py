"""URL → SQLAlchemy 的引擎：SQLite（aiosqlite）或 PostgreSQL（asyncpg）。"""

from __future__ import annotations

from typing import Final

from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ..errors import ConfigurationError, MissingExtraError
from .failures import LeftBehind
from .postgres import POOLED, asyncpg_url, probe_idle
from .sqlite import prepare, sqlite_url

_SQLITE_CONNECTIONS: Final = 5  # 每个都是一个线程；写者反正只有一个
_PG_CONNECTIONS: Final = 10  # 乘以进程数应小于服务器的 max_connections（默认 100）
_PG_RECYCLE_S: Final = 1800  # 防火墙常在空闲一小时后悄悄断开


def async_url(url: str) -> URL:
    """``sqlite:///x.db``、``postgresql://…``、``postgres://…`` → 异步驱动的 URL。

    :raises ConfigurationError: 说明原因；不含 URL 本身（可能有密码）
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError("database_url is not a URL") from None
    backend = parsed.drivername.partition("+")[0]
    if backend == "sqlite":
        return sqlite_url(parsed)
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+asyncpg")
    raise ConfigurationError("database_url must begin with sqlite:/// or postgresql://")


def create_engine(url: URL, timeout_s: float, *, pooled: bool = False) -> AsyncEngine:
    """:raises MissingExtraError: 没有装它的驱动"""
    # hide_parameters：异常与日志里不得出现密码散列和消息正文。
    if url.get_backend_name() != "sqlite":
        address, arguments = asyncpg_url(url)
        limits = {"timeout": timeout_s, "command_timeout": timeout_s}
        try:
            engine = create_async_engine(
                address,
                hide_parameters=True,
                pool_size=_PG_CONNECTIONS,
                max_overflow=0,
                pool_timeout=timeout_s,
                pool_recycle=_PG_RECYCLE_S,
                connect_args={**limits, **arguments, **(POOLED if pooled else {})},
            )
        except ModuleNotFoundError as error:
            raise MissingExtraError("PostgreSQL", error, "postgres") from None
        event.listen(engine.sync_engine, "handle_error", LeftBehind())
        probe_idle(engine)
        return engine
    engine = create_async_engine(
        url,
        hide_parameters=True,
        pool_size=_SQLITE_CONNECTIONS,
        max_overflow=0,
        pool_timeout=timeout_s,
        # 还回池时不必 ROLLBACK（又一次线程往返）：transaction() 自己提交或回滚，读取是自动提交。
        pool_reset_on_return=None,
        # isolation_level=None：BEGIN 由我们发出，sqlite3 不得自作主张。
        connect_args={"timeout": timeout_s, "isolation_level": None},
    )
    event.listen(engine.sync_engine, "connect", prepare)
    return engine
