"""拨号：连上 Redis，认证、选库、起名，确认它已经能回答。"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TypeVar

from ...errors import ConfigurationError, MeetingPushError, RedisUnavailableError
from .address import DEFAULT_USERNAME, RedisAddress
from .link import Argument, Link

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
