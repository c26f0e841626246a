"""服务器的地址：一个 base_url，WebSocket 与 REST 两种用法。"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode, urlsplit

from ..errors import ConfigurationError
from ..model import ResumePoint

_SECURE: Final = {"http": False, "ws": False, "https": True, "wss": True}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``path`` 是反向代理加的前缀，没有则为空。"""

    secure: bool
    host: str
    port: int | None
    path: str

    def messages_url(
        self, user_id: int, device_id: str, device_info: str, resume: ResumePoint | None
    ) -> str:
        """用户连接的 URL；令牌从不在里面（LESSONS 11）。"""
        query = {"device_id": device_id, "device_info": device_info}
        if resume is not None:
            query |= {"epoch": resume.epoch, "last_seq": str(resume.last_seq)}
        scheme = "wss" if self.secure else "ws"
        path = f"{self.path}/ws/user/{user_id}/messages"
        return f"{scheme}://{self._authority}{path}?{urlencode(query)}"

    @property
    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def parse_endpoint(base_url: str) -> Endpoint:
    """``http(s)://``、``ws(s)://`` 都可以；查询与片段不可有。

    :raises ConfigurationError: 不是这样的地址
    """
    try:
        parts = urlsplit(base_url)
        secure, host, port = _SECURE[parts.scheme], parts.hostname, parts.port
    except (KeyError, ValueError):
        raise ConfigurationError("base_url: expected http(s)://host[:port]") from None
    if not host or parts.query or parts.fragment or parts.username:
        raise ConfigurationError("base_url: expected http(s)://host[:port]")
    return Endpoint(secure, host, port, parts.path.rstrip("/"))
