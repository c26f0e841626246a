"""到 Redis 去：地址的写法、拨号与握手、断了重来。"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from ..errors import ConfigurationError, MeetingPushError, RedisUnavailableError
from ..logs import RepeatedWarning, logger
from ..supervision import Backoff
from .link import Argument, Link

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


# ── 拨号 ─────────────────────────────────────────────────────────────────────

L = TypeVar("L", bound=Link)


async def dial(address: RedisAddress, factory: Callable[[], L], timeout_s: float) -> L:
    """打开传输层。

    :raises RedisUnavailableError: 拒绝、超时、名字解析失败、TLS 失败
    """
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


def credentials_refused(error: MeetingPushError) -> ConfigurationError | None:
    """握手时因用户名、密码、权限被拒；别的失败 None。``cause`` 照旧。"""
    if error.temporary and error.cause not in ("noauth", "noperm"):
        return None
    what = "the credentials" if error.temporary else "the connection"  # 后者：没有那个库
    refused = ConfigurationError(f"Redis refused {what}: {error}")
    refused.cause = error.cause
    return refused


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


# ── 断线重连 ─────────────────────────────────────────────────────────────────

FIRST_BACKOFF_S: Final = 0.05
MAX_BACKOFF_S: Final = 3.0
#: 连上而没有在这么久之内又断，才算成功，退避从头计：只读的副本、满了的服务器让人连得上，
#: 第一条命令就被赶走。
STABLE_S: Final = 10.0

#: 我们自己要重连的，不是谁的错：立即。
OURS: Final = "reset"

# 一个进程有十来条连接，一断都断：合起来说，带着次数。
_lost: Final = RepeatedWarning("redis_connection_lost")
_back: Final = RepeatedWarning("redis_reconnected", level="INFO")


class Reconnector:
    """反复调用 ``open_once``。首次由 ``start`` 调用，失败就抛出；此后每次 ``lost`` 触发重连。

    ``open_once`` 返回即连接可用；它在连接已又断开时必须抛出，不得返回。
    """

    def __init__(self, name: str, open_once: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._open_once = open_once
        self._task: asyncio.Task[None] | None = None
        self._started = False
        self._opened_at = 0.0
        #: 从第一次起就抖动：Redis 一重启，所有进程同时断线（LESSONS 1）。
        self._backoff = Backoff(FIRST_BACKOFF_S, MAX_BACKOFF_S)
        self.reconnects = 0
        #: 没有连接时：最近一次为什么断、为什么连不上，一个词。
        self.cause = "unreachable"

    async def start(self) -> None:
        """第一次连接。

        :raises MeetingPushError: ``open_once`` 的错误；此时不会在后台重试
        """
        await self._open_once()
        self._opened_at = asyncio.get_running_loop().time()
        self._started = True

    def lost(self, cause: str) -> None:
        """连接断了；已在重连、没有启动时无害。"""
        if self._started and self._task is None:
            self.cause = cause
            _lost.say(connection=self._name, cause=cause)
            self._task = asyncio.create_task(
                self._reopen(), name=f"reconnect:{self._name}", context=Context()
            )

    async def stop(self) -> None:
        """不再重连；之后可以重新 ``start``。"""
        self._started = False
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _reopen(self) -> None:
        loop = asyncio.get_running_loop()
        if self.cause == OURS or loop.time() - self._opened_at >= STABLE_S:
            self._backoff.reset()
        else:
            await self._backoff.wait()
        while not await self._opened():
            await self._backoff.wait()
        self._opened_at = loop.time()
        self.reconnects += 1
        self._task = None
        _back.say(connection=self._name, reconnects=self.reconnects)

    async def _opened(self) -> bool:
        try:
            await self._open_once()
        except MeetingPushError as error:
            self.cause = error.cause
            logger.bind(connection=self._name, reason=error.message).debug("redis_reconnect_failed")
            return False
        except Exception as error:  # noqa: BLE001 — 重连循环一死，这个节点就永远聋了
            logger.bind(connection=self._name).opt(exception=error).error("redis_reconnect_failed")
            return False
        return True
