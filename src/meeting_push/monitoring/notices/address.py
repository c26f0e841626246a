"""一个渠道的地址。它带着密钥，所以它的文字只给要用它的那一个；别处看见的是涂掉的。"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

from ...errors import ConfigurationError
from ...logs import plain

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*\Z")
#: 短于它的，涂掉会把寻常的字也涂掉。
_SHORTEST_SECRET: Final = 4


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
