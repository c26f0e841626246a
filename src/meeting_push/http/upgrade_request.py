"""升级请求合不合 RFC 6455 4.2.1；不论后面是哪个 WebSocket 库，门前都只问这里。

库各有宽严（picows 收版本 8，websockets 的 400 不说要哪个版本），请求头也各有上限；问过这里的，
换成一份最小的交给库。
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from .refusals import Refusal

#: 请求行与请求头；令牌至多 8 KB，浏览器与代理的头合计很少过 16 KB。
MAX_HEAD_BYTES: Final = 64 * 1024
#: 头的条数。
MAX_HEADERS: Final = 128
END_OF_HEAD: Final = b"\r\n\r\n"
#: 我们说的唯一一版（RFC 6455 4.4）。
VERSION: Final = "13"

#: RFC 9112：``token`` 的字符；``HTTP/1.1`` 那一行。
_NAMES: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]*")
#: 从行首起：名字为空的（``:x: y``）不从中间读起，没有冒号的长行也只看一遍。
_FIELD: Final = re.compile(r"^([^:\r\n]+):[\t ]*([^\r]*)\r\n", re.MULTILINE)
_REQUEST_LINE: Final = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/(\d\.\d)")
#: 头里可以有的字节：可见的、空白、obs-text；别的控制字符都不行。
_ALLOWED: Final = bytes((9, 10, 13, *range(32, 127), *range(128, 256)))
#: 事件流的路径都以它开头。
STREAMS: Final = "/sse/"
#: 16 个字节的 base64。
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==")
_HOST: Final = re.compile(r"[^\s/?#@,]+")

#: 名字为小写，可重复。
Headers = Sequence[tuple[str, str]]
#: 同上，按名字；一个名字的几行依次。
NamedHeaders = Mapping[str, Sequence[str]]


_WANTED: Final = (("upgrade", "websocket"), ("sec-websocket-version", VERSION))
_WRONG_VERSION: Final = Refusal(
    426, "upgrade_required", f"Sec-WebSocket-Version must be {VERSION}", headers=_WANTED
)
_NO_UPGRADE: Final = Refusal(426, "upgrade_required", "this is a WebSocket", headers=_WANTED)
_NOT_A_GET: Final = Refusal(
    405, "method_not_allowed", "an upgrade is a GET", headers=(("allow", "GET"),)
)
_ONLY_GET: Final = Refusal(
    405, "method_not_allowed", "a stream is a GET", headers=(("allow", "GET"),)
)
_OTHER_STREAM: Final = Refusal(505, "http_version_not_supported", "this is not HTTP/1")
_OTHER_HTTP: Final = Refusal(
    505, "http_version_not_supported", "an upgrade is a request of HTTP/1.1"
)


@dataclass(slots=True, repr=False)
class UpgradeRequest:
    """一份请求头；``target`` 是路径与查询，原样。里面有令牌，绝不写进日志。"""

    method: str
    target: str
    version: str
    headers: Headers
    named: NamedHeaders

    @classmethod
    def parse(cls, head: bytes) -> UpgradeRequest | None:
        """``head`` 到空行为止（含）；不是 HTTP 的为 None。"""
        first, _, block = head.decode("ascii", "surrogateescape").partition("\r\n")
        match = _REQUEST_LINE.fullmatch(first)
        lines = head.count(b"\r\n")
        # 每个 CR、LF 都在行尾；逐字节的都在 C 里，一份头约 10 µs
        if match is None or not head.count(b"\r") == head.count(b"\n") == lines:
            return None
        headers = _headers(block, lines - 2)
        if headers is None or head.translate(None, _ALLOWED):
            return None
        method, target, version = match.groups()
        return cls(method, origin_form(target), version, headers, by_name(headers))

    @property
    def path(self) -> str:
        """已解码的。"""
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> str:
        """没有解码的。"""
        return self.target.partition("?")[2]

    def values(self, name: str) -> Sequence[str]:
        return self.named.get(name, ())

    def refusal(self) -> Refusal | None:
        """不合规矩的哪一条；None = 可以升级。"""
        return refusal_of(self.method, self.version, self.named)

    def stream_refusal(self) -> Refusal | None:
        """同上，一条事件流（SSE）：没有正文的 GET；HTTP/1.0 的代理也行。"""
        if self.method != "GET":
            return _ONLY_GET
        if self.version not in ("1.0", "1.1"):
            return _OTHER_STREAM
        hosts = self.named.get("host", ())
        if len(hosts) > 1 or (self.version == "1.1" and not hosts):
            return _bad("exactly one Host is needed")
        if "transfer-encoding" in self.named or set(self.values("content-length")) - {"0"}:
            return _bad("a stream's request has no body")
        return None

    def minimal(self) -> bytes:
        """库要看的就这些：没有令牌，也没有它自己的上限会嫌大的东西。"""
        [key] = self.named["sec-websocket-key"]
        return (
            f"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: {VERSION}\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        ).encode()


def complete_request(data: bytes) -> tuple[UpgradeRequest | None, bytes]:
    """``data`` 的开头是一份收齐了的、合规矩的升级请求，或要一条事件流：它，与其后的；别的 None。"""
    end = data.find(END_OF_HEAD, 0, MAX_HEAD_BYTES) + len(END_OF_HEAD)
    request = UpgradeRequest.parse(data[:end]) if end >= len(END_OF_HEAD) else None
    if request is None or len(request.headers) > MAX_HEADERS:
        return None, data
    stream = request.target.startswith(STREAMS)
    if (request.stream_refusal() if stream else request.refusal()) is not None:
        return None, data
    return request, data[end:]


def _headers(block: str, lines: int) -> Headers | None:
    fields = _FIELD.findall(block)
    if len(fields) != lines or not _NAMES.fullmatch("".join([name for name, _ in fields])):
        return None
    return [(name.lower(), value.rstrip(" \t")) for name, value in fields]


def by_name(headers: Headers) -> NamedHeaders:
    named: dict[str, list[str]] = {}
    for name, value in headers:
        if name in named:
            named[name].append(value)
        else:
            named[name] = [value]
    return named


def refusal_of(method: str, version: str, named: NamedHeaders) -> Refusal | None:
    """RFC 6455 4.2.1 的各条，与 HTTP 的（Host 恰一个，没有正文）。"""
    if method != "GET":
        return _NOT_A_GET
    if version != "1.1":
        return _bad("an upgrade is a request of HTTP/1.1") if version == "1.0" else _OTHER_HTTP
    hosts = named.get("host", ())
    if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
        return _bad("exactly one Host is needed")
    if "transfer-encoding" in named or set(named.get("content-length", ())) - {"0"}:
        return _bad("an upgrade has no body")
    return _upgrade_refusal(named)


def _upgrade_refusal(named: NamedHeaders) -> Refusal | None:
    if not asks_for_websocket(named):
        return _NO_UPGRADE
    versions = named.get("sec-websocket-version", ())
    if len(versions) > 1:
        return _bad("more than one Sec-WebSocket-Version")
    if not versions or versions[0] != VERSION:
        return _WRONG_VERSION
    keys = named.get("sec-websocket-key", ())
    if len(keys) != 1 or _KEY.fullmatch(keys[0]) is None:
        return _bad("exactly one Sec-WebSocket-Key of 16 bytes in base64 is needed")
    return None


def _bad(message: str) -> Refusal:
    return Refusal(400, "bad_request", message)


def asks_for_websocket(named: NamedHeaders) -> bool:
    """``Connection`` 与 ``Upgrade`` 都是列表，可以写成几行（RFC 9110 5.3），不分大小写。"""
    connection, upgrade = named.get("connection", ()), named.get("upgrade", ())
    return _lists(connection, "upgrade") and _lists(upgrade, "websocket")


def _lists(lines: Sequence[str], token: str) -> bool:
    if len(lines) == 1 and lines[0].lower() == token:  # 常情
        return True
    return token in {each.strip(" \t").lower() for each in ",".join(lines).split(",")}


def origin_form(target: str) -> str:
    """绝对形式的请求目标（RFC 9112 3.2.2：必须收下）→ 其中的路径与查询；不是 URL 的原样。"""
    if target.startswith("/"):
        return target
    try:
        parts = urlsplit(target)
    except ValueError:
        return target
    return urlunsplit(("", "", parts.path, parts.query, ""))


def as_text(headers: Iterable[tuple[bytes, bytes]]) -> NamedHeaders:
    return by_name([(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers])
