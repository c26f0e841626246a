"""Redis 的地址：精简连接与 redis-py 共用的一种写法。"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from ...errors import ConfigurationError

DEFAULT_PORT = 6379
DEFAULT_USERNAME = "default"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """``path`` 非空时走 unix socket，``host``、``port``、``tls`` 无意义。

    ``str()`` 与 ``repr()`` 都不含密码，可以写进日志。
    """

    host: str = "localhost"
    port: int = DEFAULT_PORT
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """解析 ``redis://[user:pass@]host:port/db``、``rediss://…``、``unix:///path?db=1``。

        :raises ConfigurationError: 说明哪里不对，不回显 URL（可能含密码）
        """
        try:
            parts = urlsplit(url)
            return cls._from_parts(parts)
        except ValueError as error:
            raise ConfigurationError(f"bad Redis URL: {_reason(error)}") from None

    @classmethod
    def _from_parts(cls, parts: SplitResult) -> RedisAddress:
        username = unquote(parts.username) if parts.username else None
        password = unquote(parts.password) if parts.password else None
        if parts.scheme == "unix":
            if not parts.path:
                raise _UrlError("unix:// needs a path")
            db = _db(parse_qs(parts.query).get("db", ["0"])[0])
            return cls(path=unquote(parts.path), db=db, username=username, password=password)
        if parts.scheme not in ("redis", "rediss"):
            raise _UrlError("the scheme must be redis://, rediss:// or unix://")
        return cls(
            host=parts.hostname or "localhost",
            port=_port(parts),
            db=_db(parts.path.strip("/") or "0"),
            username=username,
            password=password,
            tls=parts.scheme == "rediss",
        )

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{quote(self.path)}?db={self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis{'s' if self.tls else ''}://{host}:{self.port}/{self.db}"


class _UrlError(ValueError):
    """我们自己写的原因，保证不含 URL 里的任何内容。"""


def _reason(error: ValueError) -> str:
    # urlsplit 自己的 ValueError 会引用 URL 的片段（例如把密码当成端口）：不能回显
    return str(error) if isinstance(error, _UrlError) else "malformed"


def _port(parts: SplitResult) -> int:
    try:
        return DEFAULT_PORT if parts.port is None else parts.port
    except ValueError:
        raise _UrlError("the port must be a number from 0 to 65535") from None


def _db(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise _UrlError("the database must be a number")
    return int(text)
