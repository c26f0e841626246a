"""``RestPublisher``：经 REST 发送与查看，阻塞的；方法与 ``RestClient`` 的同名。

给没有事件循环的代码（Django、Flask、Celery、脚本）；一次 HTTP 调用，标准库就够。
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ssl import create_default_context
from types import TracebackType
from typing import Final, Self, TypeVar, Unpack
from urllib.parse import quote, urlencode

import msgspec

from ..model import Accepted, Draft, DraftOptions, Sender
from ..person_id import PersonId
from .endpoint import Endpoint, RestOptions, parse_endpoint
from .errors import ApiError, ServerUnreachableError
from .rest_call import (
    KEEP_ALIVE_S,
    BatchResults,
    DeliveryReport,
    HttpAnswer,
    HttpRequest,
    seconds_of,
)
from .rest_client import (
    PREFIX,
    Retries,
    api_error,
    body_of,
    idempotency,
    post,
)

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


T = TypeVar("T")


class RestPublisher:
    """几个线程可共用，``fork`` 之后也行；连接养着下次再用，用完 ``close``（``with`` 也行）。

    429、503、没有回答时重试（``options.retries`` 次），用同一个幂等键，不会发成两条。所有方法都可能
    抛出 ``ApiError``（服务器说不行）与 ``ServerUnreachableError``（没有回答）。
    """

    def __init__(
        self, base_url: str, token: str | Callable[[], str], *, options: RestOptions | None = None
    ) -> None:
        """:param token: API 密钥（``mpk_…``）或一个人的令牌；回调的每次都问"""
        self._options = options or RestOptions()
        self._http = BlockingCaller(parse_endpoint(base_url), self._options)
        self._token = token

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """关掉闲着的连接；之后还可以调用。"""
        self._http.close()

    def send(
        self,
        recipient_ids: Sequence[PersonId],
        title: str,
        content: str,
        *,
        idempotency_key: str | None = None,
        sender: Sender | None = None,
        **options: Unpack[DraftOptions],
    ) -> Accepted:
        """发一条；返回即已提交，不会丢。见 ``RestClient.send``。"""
        recipients = tuple(recipient_ids)
        draft = Draft(
            recipient_ids=recipients, title=title, content=content, sender=sender, **options
        )
        request = post("/messages", body_of(draft), idempotency(idempotency_key), idempotent=True)
        return self._call(Accepted, request)

    def send_batch(
        self, drafts: Sequence[Draft], *, idempotency_key: str | None = None
    ) -> list[Accepted]:
        """一个事务里发一批（≤ 1,000 条），全部或全不；结果与 ``drafts`` 同序。"""
        body = {"messages": [body_of(draft) for draft in drafts]}
        request = post("/messages/batch", body, idempotency(idempotency_key), idempotent=True)
        return self._call(BatchResults, request).results

    def delivery(
        self, message_id: str, *, cursor: str | None = None, limit: int = 100
    ) -> DeliveryReport:
        """自己发出的一条到了谁那里。"""
        query = {"limit": str(limit)} | ({} if cursor is None else {"cursor": cursor})
        path = f"{PREFIX}/messages/{quote(message_id, safe='')}/delivery?{urlencode(query)}"
        return self._call(DeliveryReport, HttpRequest("GET", path, {}, idempotent=True))

    def _call(self, kind: type[T], request: HttpRequest) -> T:
        answer = self._request(request)
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise api_error(answer) from None

    def _request(self, request: HttpRequest) -> HttpAnswer:
        retries = Retries(self._options, request)
        while True:
            try:
                return self._once(request)
            except (ApiError, ServerUnreachableError) as error:
                time.sleep(retries.wait_s(error))

    def _once(self, request: HttpRequest) -> HttpAnswer:
        token = self._token if isinstance(self._token, str) else self._token()
        headers = {
            "Accept": "application/json",
            "Authorization": f"Bearer {token}",
            **request.headers,
        }
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        answer = self._http.call(replace(request, headers=headers))
        if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
            raise api_error(answer)
        return answer
