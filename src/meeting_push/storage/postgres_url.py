"""PostgreSQL 的 URL：libpq 的参数（人们手里的 URL 都这样写）→ asyncpg 的参数。

来源：PostgreSQL 手册 34.1.2「Parameter Key Words」；asyncpg ``connect()``。
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from sqlalchemy.engine import URL

from ..errors import ConfigurationError

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
