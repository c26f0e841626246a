"""一条 HTTP 长连接：比通用客户端便宜，负载侧才不会先到顶。"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
from typing import Final, Self

import msgspec

from .failure import BenchError

TIMEOUT_S: Final = 30.0
_match_length: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE).search


class Accepted(msgspec.Struct, frozen=True):
    """``POST /messages`` 的 202 里我们要的。"""

    message_id: str
    recipient_count: int


_decode_accepted: Final = msgspec.json.Decoder(Accepted).decode


class PostConnection:
    """一次一个请求；不可并发使用。"""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int, local_host: str | None = None) -> Self:
        """:raises BenchError: 连不上"""
        local = None if local_host is None else (local_host, 0)
        try:
            return cls(*await asyncio.open_connection(host, port, local_addr=local))
        except OSError as error:
            raise BenchError(f"can not reach the server: {error.strerror}") from None

    @property
    def stale(self) -> bool:
        """服务器已关闭它（闲得太久）：该换一条新的。"""
        return self._reader.at_eof() or self._writer.is_closing()

    async def post(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        """返回状态码与正文。``head`` 是除 Content-Length 外的请求头（``post_head``）。

        :raises BenchError: 没有得到完整的回答
        """
        self._writer.write(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._reader.readuntil(b"\r\n\r\n")
                length = _match_length(answer)
                if length is None:
                    raise BenchError("an HTTP answer without Content-Length")
                content = await self._reader.readexactly(int(length[1]))
        except (OSError, EOFError, TimeoutError) as error:
            raise BenchError(f"no answer to a POST: {type(error).__name__}") from None
        return int(answer[9:12]), content

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def post_head(host: str, port: int, path: str, token: str) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\n"
    ).encode()


def accepted(status: int, answer: bytes) -> Accepted:
    """:raises BenchError: 不是 202：被拒绝的发送不能混进“每秒多少条”"""
    if status != http.client.ACCEPTED:
        raise BenchError(f"POST /messages answered {status}: {answer.decode(errors='replace')}")
    return _decode_accepted(answer)
