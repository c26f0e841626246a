"""一次 HTTP 调用，阻塞的：给没有事件循环的代码（Django、Flask、Celery、脚本）。标准库就够。"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ssl import create_default_context
from typing import Final

from .endpoint import Endpoint, RestOptions
from .errors import ServerUnreachableError
from .rest_call import KEEP_ALIVE_S, HttpAnswer, HttpRequest, seconds_of

#: 闲着的这一条恰好被服务器关了。
_CLOSED: Final = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError, HTTPException)


class BlockingCaller:
    """几个线程可共用；``fork`` 之后的进程用自己的连接。

    不跟随重定向，不看 ``HTTP_PROXY``，不记 cookie。``options.timeout_s`` 是每一次读写的期限；
    ``max_connections`` 条都忙着时排队。
    """

    def __init__(self, endpoint: Endpoint, options: RestOptions) -> None:
        self._endpoint = endpoint
        self._options = options
        self._ssl = (options.ssl or create_default_context()) if endpoint.secure else None
        self._renew()

    def _renew(self) -> None:
        self._pid = os.getpid()
        self._room = threading.BoundedSemaphore(self._options.max_connections)
        #: 闲着的，最近用过的在右边；单步的操作在线程之间是安全的。
        self._idle: deque[tuple[HTTPConnection, float]] = deque()

    def call(self, request: HttpRequest) -> HttpAnswer:
        """:raises ServerUnreachableError: 没有得到完整的回答；请求可能已被执行"""
        if self._pid != os.getpid():
            self._renew()
        with self._room:
            connection = self._reusable() if request.idempotent else None
            if connection is not None:
                try:
                    return self._exchange(connection, request)
                except ServerUnreachableError as error:
                    if not isinstance(error.__cause__, _CLOSED):
                        raise
            # 服务器关了闲着的这一条，不是没有它：马上换一条新的
            return self._exchange(self._connect(), request)

    def close(self) -> None:
        """关掉闲着的；之后还可以调用。"""
        for connection in self._taken():
            connection.close()

    def _reusable(self) -> HTTPConnection | None:
        return next(self._taken(), None)

    def _taken(self) -> Iterator[HTTPConnection]:
        """取出闲着的，新的在前；闲得太久的关掉。"""
        with suppress(IndexError):  # 别的线程取走了最后一条
            while True:
                connection, since = self._idle.pop()
                if time.monotonic() - since < KEEP_ALIVE_S:
                    yield connection
                else:
                    connection.close()

    def _connect(self) -> HTTPConnection:
        host, port, timeout_s = self._endpoint.host, self._endpoint.port, self._options.timeout_s
        if self._ssl is None:
            return HTTPConnection(host, port, timeout=timeout_s)
        return HTTPSConnection(host, port, timeout=timeout_s, context=self._ssl)

    def _exchange(self, connection: HTTPConnection, request: HttpRequest) -> HttpAnswer:
        target = self._endpoint.path + request.path
        try:
            connection.request(request.method, target, request.body, request.headers)
            with connection.getresponse() as answer:
                body = self._body(answer)
                kept = not answer.will_close and answer.isclosed()
            retry_after_s = seconds_of(answer.headers.get("Retry-After", ""))
        except (OSError, HTTPException) as error:
            connection.close()
            raise ServerUnreachableError(f"no answer: {type(error).__name__}") from error
        if kept:
            self._idle.append((connection, time.monotonic()))
        else:
            connection.close()
        return HttpAnswer(answer.status, body, retry_after_s)

    def _body(self, answer: HTTPResponse) -> bytes:
        """太大的不要：空的正文不是任何一种回答。"""
        limit = self._options.max_answer_bytes
        body = answer.read(limit + 1)
        if len(body) > limit:
            return b""
        answer.read()  # 分块的：读到结尾才能再用这一条
        return body
