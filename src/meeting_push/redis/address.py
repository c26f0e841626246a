"""Redis 在哪里：地址的写法，与打开到一台服务器的传输层。

一台服务器，一组 Sentinel 看着的一个主（``sentinels``；主是谁，每次拨号现问），或一个 Redis Cluster
（``cluster``；哪个槽归谁，``slot_map``）。
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import SplitResult, parse_qs, parse_qsl, quote, unquote, urlsplit

from ..errors import ConfigurationError, MeetingPushError, RedisUnavailableError
from .link import Argument, Link

DEFAULT_PORT = 6379
SENTINEL_PORT: Final = 26379
DEFAULT_USERNAME = "default"

#: 主机与端口。
Node = tuple[str, int]

_SENTINEL: Final = "redis+sentinel"
_SENTINEL_TLS: Final = "rediss+sentinel"
_CLUSTER: Final = "redis+cluster"
_CLUSTER_TLS: Final = "rediss+cluster"


@dataclass(frozen=True, slots=True)
class SentinelGroup:
    """看着同一个主的几个 Sentinel；用户名与密码是它们自己的，与主的无关。"""

    service: str
    #: （主机，端口）。
    hosts: tuple[tuple[str, int], ...]
    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """``path`` 非空时走 unix socket，``host``、``port``、``tls`` 无意义；``sentinels`` 非空时
    ``host``、``port`` 无意义，``tls`` 对 Sentinel 与主都算数；``cluster`` 非空时也是，它们是
    Redis Cluster 里的几台，别的由它们说出来。

    ``str()`` 与 ``repr()`` 都不含密码，可以写进日志。
    """

    host: str = "localhost"
    port: int = DEFAULT_PORT
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    sentinels: SentinelGroup | None = None
    cluster: tuple[Node, ...] = ()

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """解析 ``redis://[user:pass@]host:port/db``、``rediss://…``、``unix:///path?db=1``、
        ``redis+sentinel://[user:pass@]host:26379,host2:26379/SERVICE[/db]``（``rediss+sentinel``；
        Sentinel 自己的：``?sentinel_username=…&sentinel_password=…``）、
        ``redis+cluster://[user:pass@]host:7000,host2:7000``（``rediss+cluster``；没有库可选）。

        :raises ConfigurationError: 说明哪里不对，不回显 URL（可能含密码）
        """
        try:
            scheme = url.partition("://")[0]
            if scheme in (_SENTINEL, _SENTINEL_TLS):
                return cls._behind_sentinels(url, tls=scheme == _SENTINEL_TLS)
            if scheme in (_CLUSTER, _CLUSTER_TLS):
                return cls._of_cluster(url, tls=scheme == _CLUSTER_TLS)
            return cls._from_parts(urlsplit(url))
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
            raise _UrlError(
                "the scheme must be redis://, rediss://, unix://, redis+sentinel:// or"
                " redis+cluster:// (rediss+sentinel://, rediss+cluster:// with TLS)"
            )
        return cls(
            host=parts.hostname or "localhost",
            port=_port(parts),
            db=_db(parts.path.strip("/") or "0"),
            username=username,
            password=password,
            tls=parts.scheme == "rediss",
        )

    @classmethod
    def _behind_sentinels(cls, url: str, *, tls: bool) -> RedisAddress:
        """几台主机用逗号隔开，``urlsplit`` 不认：自己拆。"""
        username, password, hosts, path, query = _several(url)
        service, _, db = path.strip("/").partition("/")
        if not service:
            raise _UrlError("redis+sentinel:// needs the name of the service: …/SERVICE[/db]")
        theirs = _sentinel_credentials(query)
        group = SentinelGroup(
            service=unquote(service),
            hosts=_hosts(hosts, SENTINEL_PORT, "redis+sentinel:// needs its Sentinels", tls=tls),
            username=theirs.get("sentinel_username"),
            password=theirs.get("sentinel_password"),
        )
        return cls(
            db=_db(db or "0"),
            username=username,
            password=password,
            tls=tls,
            sentinels=group,
        )

    @classmethod
    def _of_cluster(cls, url: str, *, tls: bool) -> RedisAddress:
        username, password, hosts, path, query = _several(url)
        if path.strip("/") not in ("", "0"):
            raise _UrlError("a Redis Cluster has only database 0")
        if query:
            raise _UrlError("redis+cluster:// takes no ?…")
        nodes = _hosts(hosts, DEFAULT_PORT, "redis+cluster:// needs some of its nodes", tls=tls)
        return cls(username=username, password=password, tls=tls, cluster=nodes)

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{quote(self.path)}?db={self.db}"
        scheme = "rediss" if self.tls else "redis"
        if self.cluster:
            return f"{scheme}+cluster://{','.join(host_and_port(*one) for one in self.cluster)}"
        if self.sentinels is not None:
            hosts = ",".join(host_and_port(*one) for one in self.sentinels.hosts)
            return f"{scheme}+sentinel://{hosts}/{quote(self.sentinels.service, safe='')}/{self.db}"
        return f"{scheme}://{host_and_port(self.host, self.port)}/{self.db}"


def host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _UrlError(ValueError):
    """我们自己写的原因，保证不含 URL 里的任何内容。"""


def _reason(error: ValueError) -> str:
    # urlsplit 自己的 ValueError 会引用 URL 的片段（例如把密码当成端口）：不能回显
    return str(error) if isinstance(error, _UrlError) else "malformed"


def _port(parts: SplitResult, default: int = DEFAULT_PORT) -> int:
    try:
        return default if parts.port is None else parts.port
    except ValueError:
        raise _UrlError("the port must be a number from 0 to 65535") from None


def _db(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise _UrlError("the database must be a number")
    return int(text)


def _several(url: str) -> tuple[str | None, str | None, str, str, str]:
    """用户名、密码、几台主机、路径、查询。"""
    rest, _, query = url.partition("://")[2].partition("?")
    netloc, _, path = rest.partition("/")
    who, _, hosts = netloc.rpartition("@")
    username, _, password = who.partition(":")
    return unquote(username) or None, unquote(password) or None, hosts, path, query


def _hosts(text: str, port: int, needed: str, *, tls: bool) -> tuple[Node, ...]:
    found = [urlsplit(f"redis{'s' if tls else ''}://{one}") for one in text.split(",")]
    if not all(one.hostname for one in found):
        raise _UrlError(f"{needed}: host:{port},host2:{port}")
    return tuple((one.hostname or "", _port(one, port)) for one in found)


def _sentinel_credentials(query: str) -> dict[str, str]:
    given = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    if not given.keys() <= {"sentinel_username", "sentinel_password"}:
        raise _UrlError("redis+sentinel:// takes ?sentinel_username= and ?sentinel_password= only")
    return given


# ── 打开 ─────────────────────────────────────────────────────────────────────

L = TypeVar("L", bound=Link)


async def open_link(address: RedisAddress, factory: Callable[[], L], timeout_s: float) -> L:
    """打开到一台服务器（不是一组 Sentinel，不是 Cluster）的传输层。

    :raises RedisUnavailableError: 拒绝、超时、名字解析失败、TLS 失败
    """
    assert address.sentinels is None, "ask the Sentinels first"
    assert not address.cluster, "ask for the slots first"
    try:
        async with asyncio.timeout(timeout_s):
            return await _open(address, factory)
    except (OSError, TimeoutError) as error:  # ssl.SSLError 也是 OSError
        timed_out = isinstance(error, TimeoutError)
        raise RedisUnavailableError(
            f"cannot connect to Redis at {address}: {'no answer in time' if timed_out else error}",
            cause="timeout" if timed_out else "unreachable",
        ) from None


async def _open(address: RedisAddress, factory: Callable[[], L]) -> L:
    loop = asyncio.get_running_loop()
    if address.path is not None:
        return (await loop.create_unix_connection(factory, address.path))[1]
    context = ssl.create_default_context() if address.tls else None
    return (await loop.create_connection(factory, address.host, address.port, ssl=context))[1]


def greeting(address: RedisAddress, name: str) -> list[tuple[Argument, ...]]:
    """握手的命令，次序有关；最后的 PING 在载入 AOF 期间会得到 LOADING。"""
    commands: list[tuple[Argument, ...]] = []
    if address.password is not None:
        commands.append(("AUTH", address.username or DEFAULT_USERNAME, address.password))
    if address.db:
        commands.append(("SELECT", address.db))
    commands.append(("CLIENT", "SETNAME", name))
    commands.append(("PING",))
    return commands


def credentials_refused(error: MeetingPushError) -> ConfigurationError | None:
    """握手时因用户名、密码、权限被拒；别的失败 None。``cause`` 照旧。"""
    if error.temporary and error.cause not in ("noauth", "noperm"):
        return None
    what = "the credentials" if error.temporary else "the connection"  # 后者：没有那个库
    hint = "; a Sentinel is redis+sentinel://…" if "command 'SELECT'" in error.message else ""
    refused = ConfigurationError(f"Redis refused {what}: {error}{hint}")
    refused.cause = error.cause
    return refused
