"""一次 POST：机器人、短信与通用的 webhook 都是它。

一条连接，总的时限，不跟随重定向，回答只读开头一段。通知稀疏，不值得养连接池；解析用服务器那一侧
已经有的 httptools。
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ssl import SSLContext, create_default_context
from typing import Any, Final
from urllib.parse import urlsplit

import httptools
import msgspec

from ...clock import Clock, now_ms
from ...errors import ChannelFailedError, ConfigurationError
from ...events.signature import SECRET_PREFIX, signature
from ..alerts.model import Alert, AlertState, Notice
from .channel import TIMEOUT_S, Address, Channel
from .text import NoticeWriter

#: 回答连同头至多读这么多；机器人的回答是一行 JSON。
MOST_ANSWER_BYTES: Final = 64 * 1024
_CHUNK: Final = 16 * 1024
_PORTS: Final = {"http": 80, "https": 443}
#: 对方此刻办不了，等一等也许可以。
_TRY_LATER: Final = frozenset({408, 425, 429})
#: 里面那段给人看的字至多这么长。
_TEXT_BYTES: Final = 20_000


@dataclass(slots=True)
class Answer:
    status: int = 0
    body: bytes = b""


@dataclass(slots=True)
class _Reading:
    """httptools 的回调。"""

    body: bytearray = field(default_factory=bytearray)
    complete: bool = False

    def on_body(self, chunk: bytes) -> None:
        self.body += chunk

    def on_message_complete(self) -> None:
        self.complete = True


def base_of(address: Address) -> str:
    """``http`` 或 ``https`` 的地址，要有主机。

    :raises ConfigurationError: 没有主机，或前缀后面不是 HTTP
    """
    if address.scheme.rpartition("+")[2] not in _PORTS or not address.host:
        raise ConfigurationError(f"{address}: needs https:// (or http://) and a host")
    return address.base()


class HttpPost:
    """``address`` 只用来涂掉对方话里的密钥。"""

    def __init__(self, address: Address, timeout_s: float = TIMEOUT_S) -> None:
        base_of(address)
        self._address = address
        self._timeout_s = timeout_s
        self._ssl: SSLContext | None = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """返回 2xx 的回答。

        :raises ChannelFailedError: 连不上、超时、不是 HTTP、不是 2xx（重定向也算）
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._exchange(url, headers, body)
        except TimeoutError:
            raise ChannelFailedError(f"no answer in {self._timeout_s:g} s") from None
        except (OSError, UnicodeError, httptools.HttpParserError) as error:
            raise ChannelFailedError(f"no answer: {type(error).__name__}") from None
        if not 200 <= answer.status < 300:
            raise self._refused(answer)
        return answer

    def _refused(self, answer: Answer) -> ChannelFailedError:
        said = self._address.scrub(answer.body[:400].decode(errors="replace"))
        temporary = answer.status >= 500 or answer.status in _TRY_LATER
        return ChannelFailedError(f"HTTP {answer.status}: {said}", temporary=temporary)

    async def _exchange(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
        context = self._context() if parts.scheme == "https" else None
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=context)
        try:
            writer.write(request_bytes(url, headers, body))
            return await _answer(reader)
        finally:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                writer.transport.abort()

    def _context(self) -> SSLContext:
        self._ssl = self._ssl or create_default_context()
        return self._ssl


def host_header(url: str) -> str:
    """``Host`` 的值：默认的端口不写（各家的签名里也有它）。"""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return host if parts.port in (None, _PORTS[parts.scheme]) else f"{host}:{parts.port}"


def request_bytes(url: str, headers: Mapping[str, str], body: bytes) -> bytes:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    given = {name.lower() for name in headers}
    whole = {
        **({} if "host" in given else {"Host": host_header(url)}),
        **({} if "user-agent" in given else {"User-Agent": "meeting-push"}),
        **headers,
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in whole.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def _answer(reader: asyncio.StreamReader) -> Answer:
    """读到完整、读满、或对方关了。"""
    reading = _Reading()
    parser = httptools.HttpResponseParser(reading)
    left = MOST_ANSWER_BYTES
    while left > 0 and not reading.complete and (chunk := await reader.read(_CHUNK)):
        parser.feed_data(chunk)
        left -= len(chunk)
    status = parser.get_status_code()
    if not status:
        raise ConnectionResetError
    return Answer(status, bytes(reading.body))


class Webhook:
    """``webhook+https://…?secret=``：按 Standard Webhooks 的规矩签的 JSON。

    ``secret`` 以 ``whsec_`` 开头的，后面是 base64 的钥匙；别的就是钥匙本身的字节。没有 ``secret``
    就不签。别的参数原样留在地址里。重试的用同一个 ``webhook-id``，收的一方凭它去重。
    """

    def __init__(
        self,
        channel: Channel,
        writer: NoticeWriter,
        *,
        timeout_s: float = TIMEOUT_S,
        clock: Clock = now_ms,
    ) -> None:
        self._http = HttpPost(channel.address, timeout_s)
        self._key = _key(channel.address)
        self._url = channel.address.base(without=frozenset({"secret"}))
        self._language = channel.language
        self._writer = writer
        self._clock = clock

    async def send(self, notice: Notice) -> tuple[str, ...]:
        now = self._clock()
        body = msgspec.json.encode(self._body(notice, now))
        headers = {"Content-Type": "application/json", "webhook-id": notice.notice_id}
        headers |= self._signature(notice.notice_id, now // 1000, body)
        await self._http.post(self._url, headers, body)
        return ()

    def _signature(self, notice_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        headers = {"webhook-timestamp": str(timestamp)}
        if self._key is not None:
            headers["webhook-signature"] = signature((self._key,), notice_id, timestamp, body)
        return headers

    def _body(self, notice: Notice, now: int) -> dict[str, Any]:
        firing = any(alert.state is AlertState.FIRING for alert in notice.alerts)
        return {
            "type": "alert.firing" if firing else "alert.resolved",
            "timestamp": self._writer.moment(now),
            "data": {
                "notice_id": notice.notice_id,
                "test": notice.is_test,
                "escalation": notice.is_escalation,
                "ops": self._writer.ops_url(),
                "text": self._writer.plain(notice, self._language, _TEXT_BYTES),
                "alerts": [_alert(alert, self._writer.show) for alert in notice.alerts],
            },
        }


def _alert(alert: Alert, show: Callable[[str, float], str]) -> dict[str, Any]:
    return {
        **msgspec.to_builtins(alert),
        "summary": alert.summary._asdict(),
        "value_text": show(alert.rule, alert.value),
        "threshold_text": show(alert.rule, alert.threshold),
    }


def _key(address: Address) -> bytes | None:
    secret = address.get("secret")
    if not secret:
        return None
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError(f"{address}: what follows whsec_ is not base64") from None
