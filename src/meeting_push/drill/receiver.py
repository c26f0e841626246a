"""收通知、收事件的另一头：一个 loopback 上的 HTTP 服务器，可以叫它坏。"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from ..events.signature import signature
from .system import SeenAlert


class _Data(Struct, frozen=True):
    alerts: list[SeenAlert]


class _Body(Struct, frozen=True):
    data: _Data


class Receiver:
    """通知的另一头：验签名，记下每条告警说的是什么；``broken`` 时 ``/broken`` 一律 500。

    ``/events`` 收事件；``gone`` 时它说自己没有了。
    """

    def __init__(self) -> None:
        self.secret = secrets.token_urlsafe(16)
        self.port = 0
        self.broken = self.gone = False
        self._heard: list[SeenAlert] = []
        self._arrived = asyncio.Event()

    def url(self, path: str) -> str:
        return f"webhook+http://127.0.0.1:{self.port}/{path}?secret={self.secret}"

    def forget(self) -> None:
        """此前说的不算。"""
        self._heard.clear()

    async def heard(
        self, rule: str, labels: Mapping[str, str], state: str, alert_id: str = ""
    ) -> SeenAlert:
        """等到一条；给了 ``alert_id`` 就要那一条的。"""

        def fits(one: SeenAlert) -> bool:
            return one.is_of(rule, labels) and one.state == state and alert_id in ("", one.alert_id)

        while (found := next(filter(fits, self._heard), None)) is None:
            self._arrived.clear()
            await self._arrived.wait()
        return found

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            headers = _headers(head)
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            status = self._answer(head.partition("\r\n")[0], headers, body)
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode())
            await writer.drain()
        writer.close()

    def _answer(self, line: str, headers: Mapping[str, str], body: bytes) -> str:
        if " /events" in line:
            return "410 Gone" if self.gone else "200 OK"
        refused = self.broken and " /broken" in line
        return "200 OK" if not refused and self._take(headers, body) else "500 Broken"

    def _take(self, headers: Mapping[str, str], body: bytes) -> bool:
        message_id, timestamp = headers["webhook-id"], int(headers["webhook-timestamp"])
        key = self.secret.encode()
        if headers["webhook-signature"] != signature([key], message_id, timestamp, body):
            return False
        self._heard += msgspec.json.decode(body, type=_Body).data.alerts
        self._arrived.set()
        return True


def _headers(head: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in head.split("\r\n")[1:])
    return {name.lower(): value.strip() for name, _, value in pairs}
