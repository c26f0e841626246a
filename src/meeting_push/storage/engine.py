"""URL → SQLAlchemy 的引擎：SQLite（aiosqlite）或 PostgreSQL（asyncpg）。

PostgreSQL 的：URL 里的参数，中间有没有按事务复用连接的池。libpq 的参数（人们手里的 URL 都这样写）
→ asyncpg 的参数；来源：PostgreSQL 手册 34.1.2「Parameter Key Words」，asyncpg ``connect()``。
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from sqlalchemy import event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ..errors import ConfigurationError, MissingExtraError
from .failures import LeftBehind
from .sqlite import prepare, sqlite_url

#: asyncpg 只在 DSN 里认得它们（证书文件要由它读成 SSLContext）。
_IN_DSN: Final = frozenset(
    {
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword"),
        *("sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version"),
        *("target_session_attrs", "krbsrvname", "gsslib", "passfile", "service", "servicefile"),
    }
)
#: 启动报文里带给服务器的。
_FOR_THE_SERVER: Final = frozenset({"application_name", "options"})
_WHOLE_NUMBERS: Final = frozenset({"statement_cache_size", "prepared_statement_cache_size"})
#: 对 asyncpg 没有意义、而省去它们不改变谁连上谁的。
_WITHOUT_MEANING: Final = frozenset(
    {
        *("fallback_application_name", "client_encoding", "gssencmode", "sslcompression"),
        *("sslsni", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
        *("tcp_user_timeout", "load_balance_hosts"),
    }
)
#: SQLAlchemy 自己读：一个 URL 里的几台主机。
_OF_SQLALCHEMY: Final = frozenset({"host", "port"})


def asyncpg_url(url: URL) -> tuple[URL, dict[str, Any]]:
    """换成 asyncpg 的 URL，与要另外交给 ``connect()`` 的参数。

    :raises ConfigurationError: 参数的名字或值不行；不含值（可能是密码）
    """
    given = {name: _one(name, value) for name, value in url.query.items() if name != "host"}
    known = _IN_DSN | _FOR_THE_SERVER | _WHOLE_NUMBERS | _WITHOUT_MEANING | _OF_SQLALCHEMY
    unknown = given.keys() - known - {"connect_timeout", "channel_binding", "ssl"}
    if unknown:
        raise ConfigurationError(
            f"database_url: PostgreSQL has no parameter {sorted(unknown)[0]!r}; "
            "server settings go into options=-c%20name%3Dvalue"
        )
    kept = {name: value for name, value in url.query.items() if name in _OF_SQLALCHEMY}
    return url.set(drivername="postgresql+asyncpg", query=kept), _arguments(given)


def _arguments(given: Mapping[str, str]) -> dict[str, Any]:
    if given.get("channel_binding") == "require":
        raise ConfigurationError("database_url: channel_binding=require is not supported")
    found: dict[str, Any] = {
        name: _number(name, given[name]) for name in _WHOLE_NUMBERS & given.keys()
    }
    # libpq：0 或没有 = 一直等；我们总有上限
    if timeout_s := _number("connect_timeout", given.get("connect_timeout", "0")):
        found["timeout"] = timeout_s
    if "ssl" in given:
        found["ssl"] = given["ssl"]
    if server_settings := _only(given, _FOR_THE_SERVER):
        found["server_settings"] = server_settings
    if dsn := _only(given, _IN_DSN):
        found["dsn"] = f"postgresql://?{urlencode(dsn)}"
    return found


def _only(given: Mapping[str, str], names: frozenset[str]) -> dict[str, str]:
    return {name: value for name, value in given.items() if name in names}


def _one(name: str, value: str | tuple[str, ...]) -> str:
    if isinstance(value, str):
        return value
    raise ConfigurationError(f"database_url: {name} is given more than once")


def _number(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise ConfigurationError(f"database_url: {name} must be a whole number")
    return int(value)


# ── 池（B7） ─────────────────────────────────────────────────────────────────
# 中间是 PgBouncer ``pool_mode=transaction`` 时，每个事务可能在另一条后台连接上：有名的预备语句
# 找不到（26000）或撞名（42P05），事务之外的一问一答也可能分在两条上。所以：不留预备语句，只用
# 无名的；读也在事务里。代价是每条语句多解析一次，所以没有池的时候不这样。

#: 交给 ``asyncpg.connect()``（后两个 SQLAlchemy 自己拿走）。
POOLED: Final[dict[str, Any]] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": str,  # str() 是空串：无名
}
_PID: Final = text("SELECT pg_backend_pid()")


def asks_for_it(arguments: dict[str, Any]) -> bool:
    """URL 里写了 ``statement_cache_size=0``：照大家对 PgBouncer 的写法，就是说有池。"""
    return 0 in (
        arguments.get("statement_cache_size"),
        arguments.get("prepared_statement_cache_size"),
    )


async def is_behind_one(engine: AsyncEngine) -> bool:
    """握手时说的后台进程号与真的不同：中间有池。``engine`` 须是 ``POOLED`` 的，问的这句才稳当。"""
    async with engine.connect() as connection:
        actual = await connection.scalar(_PID)
        raw = (await connection.get_raw_connection()).driver_connection
        assert raw is not None, "connected above"
        return bool(raw.get_server_pid() != actual)


# ── 借出之前 ─────────────────────────────────────────────────────────────────
# SQLAlchemy 的 ``pool_pre_ping`` 每次借出都问三个来回（BEGIN、空语句、ROLLBACK），比要做的事还多。

#: 闲了这么久（秒）的连接，借出之前先问一声；刚用过的不问。
PROBE_AFTER_S: Final = 1.0


def probe_idle(engine: AsyncEngine) -> None:
    """断了的换掉（连同一起断的）；半开的（对面没有了而没有人说）只有问了才知道。"""
    pool, dialect = engine.sync_engine.pool, engine.dialect

    @event.listens_for(pool, "checkin")
    def used(_connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(pool, "checkout")
    def check(connection: Any, record: Any, _fairy: Any) -> None:
        if connection.driver_connection.is_closed():
            raise InvalidatePoolError
        if time.monotonic() - record.info.get("used", float("inf")) < PROBE_AFTER_S:
            return
        try:
            connection.ping()
        except dialect.loaded_dbapi.Error as error:
            if dialect.is_disconnect(error, connection, None):
                raise InvalidatePoolError from error
            raise


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


async def explained(engine: AsyncEngine, work: Callable[[], Awaitable[object]]) -> list[str]:
    """``work`` 问的各句的计划（EXPLAIN），一步一行；SQLite 的热路不经引擎，看不见。"""
    asked: list[tuple[str, Any]] = []

    def note(*given: Any) -> None:
        asked.append((given[2], given[3]))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        await work()
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)
    verb = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    lines: list[str] = []
    async with engine.connect() as connection:
        for statement, given in asked:
            if not statement.startswith(("BEGIN", "PRAGMA")):
                rows = await connection.exec_driver_sql(f"{verb} {statement}", given)
                lines += [str(row[-1]) for row in rows]
        await connection.rollback()
    return lines
