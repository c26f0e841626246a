"""替身：演练自己起的另一头，都在 loopback 上，都叫得坏。

收通知、收事件的一个 HTTP 服务器；夹在节点与 Redis 之间的代理，懂一点 RESP：拖延回答，吞掉频道消息，
掐断订阅。没有毛病时一个字节也不改。它们活在演练的进程里：演练一死就不在了，弄坏的也就过去了。
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Final

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


_MESSAGES: Final = (b"*3\r\n$7\r\nmessage\r\n", b"*3\r\n$8\r\nsmessage\r\n")
_CHUNK: Final = 65_536


def reply_length(data: bytes, start: int = 0) -> int | None:
    """``start`` 处的一个完整回答（RESP2）到哪里为止；还没到齐则 None。"""
    end = data.find(b"\r\n", start)
    if end < 0:
        return None
    kind, rest, after = data[start : start + 1], data[start + 1 : end], end + 2
    if kind == b"$":
        after += int(rest) + 2 if int(rest) >= 0 else 0
        return after if after <= len(data) else None
    if kind != b"*":
        return after
    for _ in range(max(0, int(rest))):
        inner = reply_length(data, after)
        if inner is None:
            return None
        after = inner
    return after


class RedisProxy:
    """三种毛病，都是立即生效的：

    - ``delay_s``：回答晚到这么久；
    - ``deaf``：吞掉频道消息，而 PING、订阅的确认照旧，一切看上去都好；
    - ``cuts_subscriptions``：谁要订阅就掐断谁，别的命令照常（``cut_subscribers`` 掐断已订阅的）。
    """

    def __init__(self, redis_port: int) -> None:
        self.delay_s = 0.0
        self.deaf = False
        self.cuts_subscriptions = False
        self.swallowed = 0
        self.port = 0
        self._redis_port = redis_port
        self._connections: set[asyncio.Task[None]] = set()
        self._subscribers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut_subscribers(self) -> None:
        for writer in self._subscribers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError):
                await self._join(reader, writer)
        finally:
            writer.transport.abort()
            self._subscribers.discard(writer)
            self._connections.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._redis_port)
        halves = [
            asyncio.create_task(self._commands(reader, writer, redis_writer)),
            asyncio.create_task(self._replies(redis_reader, writer)),
        ]
        try:
            await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
        finally:
            redis_writer.transport.abort()
            for half in halves:
                half.cancel()
            await asyncio.gather(*halves, return_exceptions=True)

    async def _commands(
        self, reader: asyncio.StreamReader, back: asyncio.StreamWriter, to: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(_CHUNK):
            if b"SUBSCRIBE" in data:
                if self.cuts_subscriptions:
                    return
                self._subscribers.add(back)
            to.write(data)
            await to.drain()

    async def _replies(self, reader: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        pending = b""
        while data := await reader.read(_CHUNK):
            pending += data
            passing = b""
            while (length := reply_length(pending)) is not None:
                passing += self._kept(pending[:length])
                pending = pending[length:]
            await asyncio.sleep(self.delay_s)  # 一段一段地等：次序不乱
            to.write(passing)
            await to.drain()

    def _kept(self, reply: bytes) -> bytes:
        if not (self.deaf and reply.startswith(_MESSAGES)):
            return reply
        self.swallowed += 1
        return b""

    async def close(self) -> None:
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


@contextlib.asynccontextmanager
async def redis_proxy(redis_port: int) -> AsyncIterator[RedisProxy]:
    proxy = RedisProxy(redis_port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
