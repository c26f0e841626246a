"""收通知的另一头，在 loopback 上：一个记下每次请求的 HTTP 服务器，一个说 SMTP 的。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from ssl import SSLContext
from urllib.parse import parse_qs, urlsplit

import httptools


@dataclass
class Received:
    """一次请求；头的名字小写。"""

    method: str = ""
    target: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.target).query).items()}

    # httptools 的回调
    def on_url(self, url: bytes) -> None:
        self.target += url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, chunk: bytes) -> None:
        self.body += chunk

    def on_message_complete(self) -> None:
        self.method = self.method or "done"


@dataclass
class Reply:
    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        headers = {"Content-Length": str(len(self.body)), **self.headers}
        lines = [f"HTTP/1.1 {self.status} X", *(f"{k}: {v}" for k, v in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


Answerer = Callable[[Received], Reply | Awaitable[Reply]]


class HttpReceiver:
    """``answer`` 可以换：怎样回答下一次请求。"""

    def __init__(self, answer: Answerer) -> None:
        self.answer = answer
        self.port = 0
        self.requests: list[Received] = []
        self._arrived = asyncio.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def arrived(self, count: int, within_s: float = 5.0) -> list[Received]:
        """等到第 ``count`` 次请求答完。"""
        async with asyncio.timeout(within_s):
            while len(self.requests) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.requests

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await _read(reader)
            answer = self.answer(request)
            reply = answer if isinstance(answer, Reply) else await answer
            writer.write(reply.encode())
            await writer.drain()
            self.requests.append(request)
            self._arrived.set()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Received:
    request = Received()
    parser = httptools.HttpRequestParser(request)
    while not request.method:
        chunk = await reader.read(65_536)
        if not chunk:
            raise ConnectionResetError
        parser.feed_data(chunk)
    request.method = parser.get_method().decode()
    return request


@asynccontextmanager
async def http_receiver(
    answer: Answerer = lambda _: Reply(), tls: SSLContext | None = None
) -> AsyncIterator[HttpReceiver]:
    receiver = HttpReceiver(answer)
    async with _serving(receiver.serve, tls) as receiver.port:
        yield receiver


@dataclass
class Letter:
    sender: str
    to: list[str]
    message: EmailMessage

    @property
    def text(self) -> str:
        return str(self.message.get_content())


class SmtpReceiver:
    """``refuse``：拒绝哪些收件人；``data_reply``：收完信怎么说；``hang``：问候都不说。"""

    def __init__(self) -> None:
        self.port = 0
        self.letters: list[Letter] = []
        self.refuse: set[str] = set()
        self.data_reply = "250 ok"
        self.hang = False
        self.connected = asyncio.Event()
        self.login: str | None = None
        #: 给了就会 STARTTLS。
        self.tls: SSLContext | None = None
        self.encrypted = False
        self._sender = ""
        self._to: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected.set()
        try:
            if self.hang:
                await reader.read()
                return
            writer.write(b"220 loopback\r\n")
            while line := (await reader.readline()).decode().strip():
                if reply := await self._reply(line, reader, writer):
                    writer.write(f"{reply}\r\n".encode())
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _reply(
        self, line: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> str:
        verb, _, rest = line.partition(" ")
        match verb.upper():
            case "EHLO":
                offers_tls = self.tls is not None and not self.encrypted
                return "250-loopback\r\n250 " + ("STARTTLS" if offers_tls else "AUTH PLAIN")
            case "STARTTLS":
                assert self.tls is not None
                writer.write(b"220 go\r\n")
                await writer.start_tls(self.tls)
                self.encrypted = True
                return ""
            case "AUTH":
                self.login = rest.removeprefix("PLAIN ")
                return "235 in"
            case "MAIL":
                self._sender, self._to = _box(rest), []
            case "RCPT":
                if _box(rest) in self.refuse:
                    return "550 nobody here"
                self._to.append(_box(rest))
            case "DATA":
                writer.write(b"354 go\r\n")
                data = await reader.readuntil(b"\r\n.\r\n")
                return self._take(data)
            case "QUIT":
                return "221 bye"
        return "250 ok"

    def _take(self, data: bytes) -> str:
        if self.data_reply.startswith("250"):
            message = message_from_bytes(data.removesuffix(b".\r\n"), policy=policy.default)
            assert isinstance(message, EmailMessage)
            self.letters.append(Letter(self._sender, list(self._to), message))
        return self.data_reply


def _box(text: str) -> str:
    return text.partition("<")[2].partition(">")[0]


@asynccontextmanager
async def smtp_receiver() -> AsyncIterator[SmtpReceiver]:
    receiver = SmtpReceiver()
    async with _serving(receiver.serve) as receiver.port:
        yield receiver


@asynccontextmanager
async def _serving(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    tls: SSLContext | None = None,
) -> AsyncIterator[int]:
    serving: set[asyncio.Task[None]] = set()
    unclosed: set[asyncio.Task[None]] = set()

    async def held(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        unclosed.add(task)
        try:
            await serve(reader, writer)
        finally:
            serving.discard(task)
            # 握手没有成的：传输关了，没有人告诉 writer
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await writer.wait_closed()
            unclosed.discard(task)

    server = await asyncio.start_server(held, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*unclosed, return_exceptions=True)
