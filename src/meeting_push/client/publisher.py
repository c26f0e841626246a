"""``RestPublisher``：经 REST 发送与查看，阻塞的；方法与 ``RestClient`` 的同名。"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from types import TracebackType
from typing import Self, TypeVar, Unpack
from urllib.parse import quote, urlencode

import msgspec

from ..model import Accepted, Draft, DraftOptions, Sender
from ..person_id import PersonId
from .blocking_http import BlockingCaller
from .endpoint import Backoff, RestOptions, parse_endpoint
from .errors import ApiError, ServerUnreachableError
from .rest_call import BatchResults, DeliveryReport, HttpAnswer, HttpRequest
from .rest_client import (
    PREFIX,
    api_error,
    body_of,
    idempotency,
    post,
    wait_s,
    worth_retrying,
)

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
        options, retries = self._options, self._options.retries
        backoff = Backoff(options.backoff_base_s, options.max_retry_wait_s, random.random)
        while True:
            try:
                return self._once(request)
            except (ApiError, ServerUnreachableError) as error:
                if retries == 0 or not worth_retrying(error, options):
                    raise
                time.sleep(wait_s(error, backoff))
            retries -= 1

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
