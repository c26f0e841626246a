"""握手请求：驱动从各自的库里取出同样的几样东西，此后两者无别；与握手的速率。

每条连接解析一次；里面有令牌，认证之后就该放手，绝不写进日志。速率按地址、按用户，以及按地址的认证
失败；只在本节点内数，内存有上限。地址的额度只挡没有证明自己是谁的：一个地址后面可能是整个公司，其中
一个人灌握手，别人带着有效的令牌照样进得来（他们各有自己的额度）。
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from ..clock import now_ms
from ..errors import ForbiddenError, InvalidTokenError, MeetingPushError, RateLimitedError
from ..limits.rate import KeyedBuckets, rate_key
from ..logs import MANY, RepeatedWarning
from ..model import MAX_USER_ID, ResumePoint
from ..protocol.frames import SUBPROTOCOL
from ..settings import Settings

PATH_PREFIX: Final = "/ws/user/"
MAX_DEVICE_ID_CHARS: Final = 64
MAX_DEVICE_INFO_CHARS: Final = 256
_EPOCH: Final = re.compile(r"[!-~]{1,64}")
_SEQ: Final = re.compile(r"[0-9]{1,16}")
#: 设备声称有位置，可我们看不懂；这个 epoch 谁也不会发。
UNREADABLE_POSITION: Final = ResumePoint("?", 0)
_MAX_QUERY_FIELDS: Final = 32
_USER_ID: Final = re.compile(r"[1-9][0-9]{0,15}")
_PATH: Final = re.compile(re.escape(PATH_PREFIX) + r"([^/?]+)/messages")


def parse_user_id(text: str) -> int | None:
    """规范写法的正整数；``01``、``-1``、``1e3``、全角数字与过大的都不是。"""
    if _USER_ID.fullmatch(text) is None:
        return None
    user_id = int(text)
    return user_id if user_id <= MAX_USER_ID else None


def user_id_in_path(path: str) -> int | None:
    """``/ws/user/{user_id}/messages`` 里的用户；别的路径是 None（HTTP 404）。"""
    match = _PATH.fullmatch(path)
    return None if match is None else parse_user_id(match.group(1))


@dataclass(frozen=True, slots=True, repr=False)
class Handshake:
    """``headers`` 的名字为小写、可重复；``query`` 是未解码的查询串。"""

    user_id: int
    query: str
    headers: tuple[tuple[str, str], ...]
    ip_address: str

    def header_values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def header(self, name: str) -> str | None:
        values = self.header_values(name)
        return values[0] if values else None

    def fields(self) -> list[tuple[str, str]]:
        """查询串的各项；坏的百分号编码变成替换字符，项数过多则当作没有。"""
        try:
            return parse_qsl(self.query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
        except ValueError:
            return []

    def subprotocols(self) -> list[str]:
        offered = ",".join(self.header_values("sec-websocket-protocol"))
        return [token.strip() for token in offered.split(",")] if offered else []

    @property
    def accepted_subprotocol(self) -> str | None:
        """只回显 ``meeting-push.v1``，且只在客户端提出时；带令牌的那个绝不回显。"""
        return SUBPROTOCOL if SUBPROTOCOL in self.subprotocols() else None


@dataclass(frozen=True, slots=True)
class Device:
    """客户端自报的设备；都不可信，只截短、去掉控制字符。"""

    device_id: str
    device_info: str
    resume: ResumePoint | None

    @classmethod
    def of(cls, handshake: Handshake, connection_id: str) -> Device:
        """没报 ``device_id`` 的用 ``connection_id``；没报 ``device_info`` 的用 User-Agent。"""
        given: dict[str, str] = {}
        for name, value in handshake.fields():
            given.setdefault(name, value)
        info = given.get("device_info") or handshake.header("user-agent") or ""
        return cls(
            clean(given.get("device_id", ""), MAX_DEVICE_ID_CHARS) or connection_id,
            clean(info, MAX_DEVICE_INFO_CHARS),
            _resume_point(given.get("epoch", ""), given.get("last_seq", "")),
        )


def clean(text: str, max_chars: int) -> str:
    """去掉控制字符、代理项与首尾空白，截短。"""
    kept = (char for char in text[: max_chars * 2] if unicodedata.category(char)[0] != "C")
    return "".join(kept).strip()[:max_chars]


def _resume_point(epoch: str, last_seq: str) -> ResumePoint | None:
    """都没给是没有位置；给了而看不懂的（C7）是作废的位置：它得到信箱，和一帧 ``resync``。"""
    if not epoch and not last_seq:
        return None
    if _EPOCH.fullmatch(epoch) is None or _SEQ.fullmatch(last_seq) is None:
        return UNREADABLE_POSITION
    return ResumePoint(epoch, int(last_seq))


#: 同一个地址被限速，十秒至多记一行：日志不能成为放大器。
_LOGS_PER_S: Final = 0.1
#: 过期与吊销的令牌是我们签过的，不是猜的：睡醒的标签页不该连累同一个地址的别人。
_GUESSES: Final = (InvalidTokenError, ForbiddenError)


class HastyUserError(RateLimitedError):
    """令牌是真的，只是这个人连得太快：算在他头上，不算在他的地址头上。"""

    def __init__(self, user_id: int) -> None:
        super().__init__("too many connections in a short time")
        self.user_id = user_id


class HandshakeLimits:
    """由 ``Authenticator`` 使用。"""

    def __init__(self, settings: Settings, clock: Callable[[], int] = now_ms) -> None:
        self._clock = clock
        self._addresses = KeyedBuckets(
            settings.handshakes_per_address_per_s, settings.handshakes_per_address_burst
        )
        self._users = KeyedBuckets(
            settings.handshakes_per_user_per_s, settings.handshakes_per_user_burst
        )
        self._failures = KeyedBuckets(
            settings.auth_failures_per_address_per_s, settings.auth_failures_per_address_burst
        )
        self._log_turns = KeyedBuckets(_LOGS_PER_S, 1)
        self._limited = RepeatedWarning("rate_limited", lines=MANY)

    def suspects(self, address: str) -> bool:
        """这个地址的陌生人此刻已超出额度：他们不许排队占住门；带着有效令牌的也就不必排。"""
        now, key = self._clock(), rate_key(address)
        return self._addresses.empty(key, now) or self._failures.empty(key, now)

    def check_stranger(self, address: str) -> None:
        """认证没有通过之后问。

        :raises RateLimitedError: 这个地址的陌生人来得太快，或失败得太多
        """
        now, key = self._clock(), rate_key(address)
        limit = None
        if not self._addresses.take(key, now):
            limit = "handshakes_by_address"
        elif self._failures.empty(key, now):
            limit = "auth_failures_by_address"
        if limit is not None:
            self._log(limit, address, key, now)
            raise RateLimitedError("too many connections in a short time")

    def check_user(self, user_id: int, address: str) -> None:
        """验证令牌之后：没有令牌的人用不完别人的额度。

        :raises HastyUserError: 这个用户连得太快
        """
        now = self._clock()
        if not self._users.take(user_id, now):
            self._log("handshakes_by_user", address, user_id, now)
            raise HastyUserError(user_id)

    def failed(self, address: str, error: MeetingPushError) -> None:
        """认证没有通过。"""
        if isinstance(error, _GUESSES):
            self._failures.take(rate_key(address), self._clock())

    def _log(self, limit: str, address: str, key: Hashable, now: int) -> None:
        if self._log_turns.take((limit, key), now):
            self._limited.say(limit=limit, key=key, ip_address=address)
