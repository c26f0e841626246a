"""被测服务器的坐标：负载进程需要知道的全部。"""

from __future__ import annotations

import functools
import ipaddress
import time
from typing import Final
from urllib.parse import urlsplit

import jwt
import msgspec

from meeting_push.errors import ConfigurationError

#: 长于任何一次测量；令牌到期提醒也不会出现在测量里。
_TOKEN_TTL_S: Final = 4 * 3600


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """``jwt_secret`` 只经管道交给自己的负载进程，不写进报告。"""

    host: str
    port: int
    redis_url: str
    jwt_secret: str
    jwt_audience: str
    key_prefix: str = ""
    partitions: int = 1

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def messages_url(self, user_id: int) -> str:
        return f"ws://{self.host}:{self.port}/ws/user/{user_id}/messages"

    def token(self, user_id: int, role: str = "user") -> str:
        """给任意用户 id 的访问令牌：用户连接的路径上没有 SQL，用户不必存在。同一个用户的不变。"""
        return _token(self, user_id, role)


@functools.lru_cache(maxsize=200_000)
def _token(target: Target, user_id: int, role: str) -> str:
    now = int(time.time())
    claims = {
        "sub": str(user_id),
        "role": role,
        "name": f"bench-{user_id}",
        "aud": target.jwt_audience,
        "iat": now,
        "exp": now + _TOKEN_TTL_S,
        "jti": f"bench-{user_id}-{now}",
    }
    return jwt.encode(claims, target.jwt_secret, algorithm="HS256")


def loopback_address(url: str) -> tuple[str, int]:
    """``http://127.0.0.1:8000`` → 主机与端口。

    :raises ConfigurationError: 不是本机：压测绝不对着别人的机器
    """
    try:
        parts = urlsplit(url)
        host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
        port = parts.port or 80
        # 只有 IPv4：负载要用 127.0.0.x 的许多源地址
        local = ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        local = False
    if not local or parts.scheme != "http":
        raise ConfigurationError("--url: expected http:// and an IPv4 loopback address")
    return host, port
