"""一个渠道：它的地址、说给它哪些、攒多久、升级与安静的时段，发给它的那一方是什么样子。

地址带着密钥，所以它的文字只给要用它的那一个；别处看见的是涂掉的。
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final, Literal, Protocol
from urllib.parse import SplitResult, quote, unquote, urlsplit
from zoneinfo import ZoneInfo

from ...errors import ConfigurationError
from ...logs import plain
from ..alerts.model import Notice, Severity

Language = Literal["zh", "en"]

#: 一次发送的上限，连着建立连接与等回答。
TIMEOUT_S: Final = 10.0
#: 攒这么久一并说。
GROUP_S: Final = 10.0
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*\Z")
#: 短于它的，涂掉会把寻常的字也涂掉。
_SHORTEST_SECRET: Final = 4
_MS: Final = timedelta(milliseconds=1)


class Address:
    """``方案://用户:密码@主机:端口/路径?参数``。

    参数里的 ``+`` 就是加号（电话号码里有它），空格写 ``%20``。

    :raises ConfigurationError: 不成地址；文字里没有密钥
    """

    __slots__ = ("_parts", "_query", "_url", "scheme")

    def __init__(self, url: str) -> None:
        scheme, separator, _ = url.partition("://")
        self.scheme = scheme.lower()
        if not separator or _SCHEME.match(self.scheme) is None:
            raise ConfigurationError("is not an address: it has no scheme://")
        if not url.isprintable() or " " in url:
            raise ConfigurationError(f"{self.scheme}://: has blanks or control characters")
        self._url = url
        try:
            self._parts: SplitResult = urlsplit(url)
            _ = self._parts.port
        except ValueError:
            raise ConfigurationError(f"{self.scheme}://: its host or port is malformed") from None
        self._query = _query(self._parts.query)

    @property
    def url(self) -> str:
        """连同密钥的原文；只交给发的那一方。"""
        return self._url

    @property
    def host(self) -> str:
        return self._parts.hostname or ""

    @property
    def port(self) -> int | None:
        return self._parts.port

    @property
    def path(self) -> str:
        return self._parts.path

    @property
    def user(self) -> str:
        return unquote(self._parts.username or "")

    @property
    def password(self) -> str:
        return unquote(self._parts.password or "")

    @property
    def names(self) -> set[str]:
        """参数的名字。"""
        return {name for name, _ in self._query}

    def get(self, name: str, default: str = "") -> str:
        """参数 ``name`` 的值；给了几次取头一个。"""
        return next((value for known, value in self._query if known == name), default)

    def items(self, name: str) -> list[str]:
        """逗号分开的一个参数。"""
        return [item.strip() for item in self.get(name).split(",") if item.strip()]

    def base(self, *, without: frozenset[str] = frozenset()) -> str:
        """``http(s)://主机[:端口]/路径?参数``：去掉我们的前缀、用户、``without`` 里的参数。"""
        scheme = self.scheme.rpartition("+")[2]
        netloc = self._parts.netloc.rpartition("@")[2]
        kept = [(name, value) for name, value in self._query if name not in without]
        query = "&".join(f"{quote(n, safe='')}={quote(v, safe='')}" for n, v in kept)
        return f"{scheme}://{netloc}{self.path}" + (f"?{query}" if query else "")

    def scrub(self, text: str) -> str:
        """对方回答的话里涂掉我们的密钥，去掉控制符，截短：它要进日志。"""
        secrets = {self.user, self.password, self.path.strip("/"), *(v for _, v in self._query)}
        for secret in sorted(secrets, key=len, reverse=True):
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "***")
        return plain(text)[:200]

    def __str__(self) -> str:
        own = self.scheme.rpartition("+")[2] in {"http", "https"}
        return f"{self.scheme}://{self.host}/***" if own else f"{self.scheme}://***"

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and other.url == self._url

    def __hash__(self) -> int:
        return hash(self._url)


def _query(text: str) -> list[tuple[str, str]]:
    pairs = [part.partition("=") for part in text.split("&") if part]
    return [(unquote(name), unquote(value)) for name, _, value in pairs]


@dataclass(frozen=True, slots=True)
class QuietHours:
    """每天当地时间 ``start`` 到 ``end``（可以跨过午夜）；``pierced_by`` 及更重的照样说。"""

    start: time
    end: time
    zone: ZoneInfo
    pierced_by: Severity

    def hold(self, severity: Severity, now_ms: int) -> bool:
        """此刻不说这么重的。"""
        if severity.rank >= self.pierced_by.rank:
            return False
        local = self._local(now_ms).time()
        if self.start < self.end:
            return self.start <= local < self.end
        return local >= self.start or local < self.end

    def left_s(self, now_ms: int) -> float:
        """离下一次 ``end`` 还有几秒；夏令时跳过的那一刻算作跳过之后。"""
        local = self._local(now_ms)
        day = local.date() + timedelta(days=local.time() >= self.end)
        end = datetime.combine(day, self.end, self.zone).astimezone(UTC)
        return max(0.0, (end - local.astimezone(UTC)).total_seconds())

    def _local(self, now_ms: int) -> datetime:
        return (datetime.fromtimestamp(0, UTC) + now_ms * _MS).astimezone(self.zone)


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """``rate_per_min`` 为 0 即不限。``watchdog``：另一头是看门狗的开关，只收心跳，别的都不收。"""

    name: str
    address: Address
    min_severity: Severity = Severity.INFO
    group_s: float = GROUP_S
    rate_per_min: int = 0
    fallback: str | None = None
    language: Language = "zh"
    watchdog: bool = False

    @property
    def kind(self) -> str:
        """渠道的种类，给指标：``webhook``、``dingtalk``、``mailto`` …"""
        head, _, _ = self.address.scheme.partition("+")
        return head


@dataclass(frozen=True, slots=True)
class Escalation:
    """触发 ``after_s`` 之后还没有人认领，告诉 ``to``。"""

    after_s: float
    to: str


@dataclass(frozen=True, slots=True)
class NoticeConfig:
    channels: tuple[Channel, ...]
    escalate: tuple[Escalation, ...] = ()
    quiet_hours: QuietHours | None = None


class Sender(Protocol):
    async def send(self, notice: Notice) -> tuple[str, ...]:
        """发一次；返回被拒绝的收件人（别人都收到了），通常为空。可以取消。

        取消或超时的，对方可能已经收到。

        :raises ChannelFailedError: 没有人收到；话里没有密钥
        """
        ...
