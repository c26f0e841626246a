"""往哪里连、怎样连：可调项、地址、令牌、退避。

服务器的地址：一个 base_url，WebSocket 与 REST 两种用法。

SDK 的可调项：不可变，名字带单位。

令牌从哪来：一个固定的字符串，或每次连接都问一遍的回调。

重连的退避：全抖动、指数、封顶。纯计算，随机数由外面给。
"""

from __future__ import annotations

import base64
import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import ldexp
from ssl import SSLContext
from typing import Final, Literal
from urllib.parse import urlencode, urlsplit

import msgspec

from ..errors import ConfigurationError
from ..mailbox_model import ResumePoint
from ..person_id import PersonId, PersonIds, path_segment
from .errors import TokenUnreadableError


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """``PushClient`` 的可调项；默认值可直接用于生产。

    :param dead_after_s: 发出心跳后这么久没有任何帧到达，就当服务器已死
    :param backoff_cap_s: 退避的封顶；服务器答了而不让连的，等得到这么久
    :param unreachable_cap_s: 同上，连不上的（没有人在听：多半在重启，一两秒就回来）
    :param stable_after_s: 连接活过这么久才算稳定，此后退避从头算起
    :param inbox_limit: 最多替应用存着几条没来得及处理的消息；满了就不再读套接字
    :param applied_capacity: 去重记住多少个已应用的消息 id
    :param concurrency: ``run()`` 里同时有几个处理函数；大于 1 时不再保证次序
    :param ack: ``handled``：处理函数正常返回（要下一条）就确认；``manual``：只有 ``ack()``
    :param transport: ``auto``：WebSocket 连着两次不成就走 SSE，``websocket_retry_s`` 之后再试
    :param silent_after_s: 事件流这么久没有一个字节（服务器每 15 秒一行注释），就当服务器已死
    """

    open_timeout_s: float = 10
    close_timeout_s: float = 2
    dead_after_s: float = 10
    backoff_base_s: float = 1
    backoff_cap_s: float = 60
    unreachable_cap_s: float = 5
    stable_after_s: float = 10
    ack_delay_s: float = 0.005
    concurrency: int = 1
    ack: Literal["handled", "manual"] = "handled"
    transport: Literal["auto", "websocket", "sse"] = "auto"
    websocket_retry_s: float = 300
    silent_after_s: float = 45
    inbox_limit: int = 1_000
    applied_capacity: int = 10_000
    max_frame_bytes: int = 4 * 1024 * 1024
    user_id_claim: str = "sub"
    ssl: SSLContext | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestOptions:
    """``RestClient`` 的可调项。

    :param retries: 幂等调用最多重试几次（429、503、连不上）
    :param max_retry_wait_s: ``Retry-After`` 比它还长就不等了，把错误交给调用者
    :param max_connections: 同时至多几条连接；多出来的调用排队，排队不算在 ``timeout_s`` 里
    :param max_answer_bytes: 更大的回答不要（``unexpected_answer``）；一页收件箱可以有几十兆字节
    """

    timeout_s: float = 10
    retries: int = 3
    backoff_base_s: float = 0.5
    max_retry_wait_s: float = 30
    max_connections: int = 64
    max_answer_bytes: int = 64 * 1024 * 1024
    ssl: SSLContext | None = None


_SECURE: Final = {"http": False, "ws": False, "https": True, "wss": True}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``path`` 是反向代理加的前缀，没有则为空。"""

    secure: bool
    host: str
    port: int | None
    path: str

    def messages_url(
        self, user_id: PersonId, device_id: str, device_info: str, resume: ResumePoint | None
    ) -> str:
        """用户连接的 URL；令牌从不在里面（LESSONS 11）。"""
        scheme = "wss" if self.secure else "ws"
        path = f"{self.path}/ws/user/{path_segment(user_id)}/messages"
        query = _device_query(device_id, device_info, resume)
        return f"{scheme}://{self._authority}{path}?{query}"

    def stream_url(
        self, user_id: PersonId, device_id: str, device_info: str, resume: ResumePoint | None
    ) -> str:
        """没有 WebSocket 时的那一条；同样没有令牌。"""
        path = f"/sse/user/{path_segment(user_id)}/messages"
        return f"{self.rest_url}{path}?{_device_query(device_id, device_info, resume)}"

    @property
    def rest_url(self) -> str:
        """REST 的路径接在它后面。"""
        return f"{'https' if self.secure else 'http'}://{self._authority}{self.path}"

    @property
    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def _device_query(device_id: str, device_info: str, resume: ResumePoint | None) -> str:
    query = {"device_id": device_id, "device_info": device_info}
    if resume is not None:
        query |= {"epoch": resume.epoch, "last_seq": str(resume.last_seq)}
    return urlencode(query)


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


#: 令牌里的 id：收不收一段字由服务器说。
_IDS: Final = PersonIds(strings=True)
#: 固定的字符串过期后没有替换；回调可以是同步的，也可以是协程函数。
#: 有参数 ``fresh`` 的会知道为什么问：真，就是手里的刚过期（4004、将到期），必须换新的。
TokenSource = str | Callable[..., str | Awaitable[str]]


async def obtain(source: TokenSource, *, fresh: bool = False) -> str:
    """此刻该用的令牌；回调的异常原样传出。"""
    if isinstance(source, str):
        return source
    token = source(fresh=fresh) if _takes_fresh(source) else source()
    return await token if inspect.isawaitable(token) else token


def _takes_fresh(source: Callable[..., object]) -> bool:
    try:
        return "fresh" in inspect.signature(source).parameters
    except ValueError:  # 内建的，没有签名
        return False


def user_id_in(token: str, claim: str) -> PersonId:
    """JWT 里说的用户 id，不验证签名：验证是服务器的事，这里只为拼出 URL。

    :raises TokenUnreadableError: 不是 JWT，或没有这个声明；消息里不含令牌
    """
    person = _IDS.read(_claims(token).get(claim))
    if person is None:
        raise TokenUnreadableError(f"no user id in the claim {claim!r} of the token; pass user_id")
    return person


def lasts(token: str) -> bool:
    """它自己说的到期时刻还没到：被拒（4004）就是钟不准，等一等会好。看不懂的算到期了。"""
    expires_at = _claims(token).get("exp")
    return isinstance(expires_at, int | float) and expires_at > time.time()


def _claims(token: str) -> dict[str, object]:
    """JWT 的声明，不验证；不是 JWT 就是空的。"""
    try:
        payload = token.split(".")[1]
        return msgspec.json.decode(
            base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)),
            type=dict[str, object],
        )
    except (IndexError, ValueError, msgspec.DecodeError):
        return {}


#: 2**32 个底数早已超过任何封顶值；再往上只会让浮点溢出。
_MAX_DOUBLINGS: Final = 32


class Backoff:
    """第 n 次（从 0 数）的等待在 [0, min(cap, base·2ⁿ)) 里均匀取；到了封顶 n 就不再长。

    从第一次起就抖动：发布之后所有客户端同时断开，差别只能来自这里（phoenix#4045）。
    """

    def __init__(self, base_s: float, cap_s: float, random: Callable[[], float]) -> None:
        """``random`` 返回 [0, 1) 的均匀随机数。"""
        self._base_s = base_s
        self._cap_s = cap_s
        self._random = random
        self._attempt = 0

    def next_delay(self, cap_s: float | None = None) -> float:
        """下一次尝试前要等的秒数；``cap_s`` 是这一次的封顶，不高于平常的。"""
        cap = self._cap_s if cap_s is None else min(cap_s, self._cap_s)
        ceiling = ldexp(self._base_s, min(self._attempt, _MAX_DOUBLINGS))
        if ceiling < cap:
            self._attempt += 1
        return self._random() * min(cap, ceiling)

    def at_least(self, attempts: int) -> None:
        """服务器说太多了：不从最短的等起。"""
        self._attempt = max(self._attempt, attempts)

    def within(self, window_s: float) -> float:
        """服务器指定的窗口（draining）里的一点；不计作一次失败。"""
        return self._random() * window_s

    def reset(self) -> None:
        """连接稳定之后：退避从头算起。"""
        self._attempt = 0
