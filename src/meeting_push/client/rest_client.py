"""``RestClient``：账号、发送、收件箱、投递状态。

``TokenKeeper``：替应用登录、按时刷新，是 ``PushClient`` 与 ``RestClient`` 的令牌回调。
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Final, Self, TypeVar, Unpack
from urllib.parse import quote, urlencode

import msgspec

from ..model import Accepted, Draft, DraftOptions, MessageType, Sender
from ..person_id import PersonId, path_segment
from .endpoint import Backoff, RestOptions, TokenSource, obtain, parse_endpoint
from .errors import ApiError, ServerUnreachableError
from .rest_call import (
    BatchResults,
    Counts,
    DeliveryReport,
    DeliveryStatistics,
    ErrorBody,
    ErrorDetail,
    HttpAnswer,
    HttpCaller,
    HttpRequest,
    InboxMessage,
    InboxPage,
    Registered,
    SentPage,
    StateChange,
    Tokens,
    Unread,
    UserPresence,
)

T = TypeVar("T")

PREFIX: Final = "/api/v1"
#: “等等再来”；也可能已经做了而没有回答（``outcome_unknown``），所以只有幂等的调用才重试。
_BUSY: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


class RestClient:
    """可并发使用；连接养着下次再用，用完 ``aclose``（``async with`` 也行），忘了关的随它自己回收。

    幂等的调用遇到 429、503、没有回答时重试（``options.retries`` 次）；别的只试一次。
    所有方法都可能抛出 ``ApiError``（服务器说不行）与 ``ServerUnreachableError``（没有回答）。
    """

    def __init__(
        self,
        base_url: str,
        token: TokenSource | None = None,
        *,
        options: RestOptions | None = None,
    ) -> None:
        """:param token: ``register``、``login``、``refresh`` 不需要；其余都要"""
        self._options = options or RestOptions()
        self._http = HttpCaller(parse_endpoint(base_url), self._options)
        self._token = token

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """关掉此刻的事件循环里养着的连接；之后还可以调用。"""
        await self._http.aclose()

    # ── 账号 ────────────────────────────────────────────────────────────────

    async def register(self, username: str, password: str) -> Registered:
        body = {"username": username, "password": password}
        return await self._call(Registered, post("/auth/register", body), signed=False)

    async def login(self, username: str, password: str) -> Tokens:
        body = {"username": username, "password": password}
        return await self._call(Tokens, post("/auth/login", body), signed=False)

    async def refresh(self, refresh_token: str) -> Tokens:
        """旧的刷新令牌随即作废；再用它会吊销整族，所以从不重试。"""
        body = {"refresh_token": refresh_token}
        return await self._call(Tokens, post("/auth/refresh", body), signed=False)

    async def change_password(self, old: str, new: str) -> None:
        """别的会话全部作废，这一个照旧。"""
        await self._request(post("/auth/password", {"old": old, "new": new}))

    async def logout(self) -> None:
        """结束这次登录，并关闭它的套接字。"""
        await self._request(post("/auth/logout", {}))

    # ── 发送 ────────────────────────────────────────────────────────────────

    async def send(
        self,
        recipient_ids: Sequence[PersonId],
        title: str,
        content: str,
        *,
        idempotency_key: str | None = None,
        sender: Sender | None = None,
        **options: Unpack[DraftOptions],
    ) -> Accepted:
        """发一条；返回即已提交，不会丢。

        重试用同一个 Idempotency-Key（不给就生成一个），不会发成两条。
        ``sender``：令牌是 API 密钥的，可以替一个人发（没有 id 的只是换个名字）。
        """
        recipients = tuple(recipient_ids)
        draft = Draft(
            recipient_ids=recipients, title=title, content=content, sender=sender, **options
        )
        request = post("/messages", body_of(draft), idempotency(idempotency_key), idempotent=True)
        return await self._call(Accepted, request)

    async def send_batch(
        self, drafts: Sequence[Draft], *, idempotency_key: str | None = None
    ) -> list[Accepted]:
        """一个事务里发一批（≤ 1,000 条），全部或全不；结果与 ``drafts`` 同序。"""
        body = {"messages": [body_of(draft) for draft in drafts]}
        request = post("/messages/batch", body, idempotency(idempotency_key), idempotent=True)
        return (await self._call(BatchResults, request)).results

    # ── 收件箱 ──────────────────────────────────────────────────────────────

    async def inbox(
        self,
        *,
        unread: bool = False,
        archived: bool = False,
        message_type: MessageType | None = None,
        min_priority: int | None = None,
        q: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> InboxPage:
        """收件箱，新的在前；``q``：标题或正文里有这一段。"""
        query = _given(
            unread="true" if unread else None,
            archived="true" if archived else None,
            message_type=message_type,
            min_priority=min_priority,
            q=q,
            limit=limit,
            cursor=cursor,
        )
        return await self._get(InboxPage, "/messages", query)

    async def sent(self, *, cursor: str | None = None, limit: int = 50) -> SentPage:
        """自己发的，新的在前。"""
        return await self._get(SentPage, "/messages/sent", _given(limit=limit, cursor=cursor))

    async def message(self, message_id: str) -> InboxMessage:
        return await self._get(InboxMessage, f"/messages/{quote(message_id, safe='')}", {})

    async def counts(self) -> Counts:
        return await self._get(Counts, "/messages/counts", {})

    async def set_state(
        self,
        message_ids: Sequence[str],
        *,
        read: bool | None = None,
        archived: bool | None = None,
    ) -> StateChange:
        """已读、归档改成这样（≤ 1,000 条），没有说的不变；别的设备得到 ``inbox_sync``。"""
        wanted = {"read": read, "archived": archived}
        said = {name: value for name, value in wanted.items() if value is not None}
        body = {"message_ids": list(message_ids), **said}
        return await self._call(StateChange, post("/messages/state", body, idempotent=True))

    async def archive(self, message_ids: Sequence[str], archived: bool = True) -> StateChange:
        """归档；False 是放回去。"""
        return await self.set_state(message_ids, archived=archived)

    async def withdraw(self, message_id: str) -> None:
        """撤回自己发的：到处只剩墓碑。"""
        target = f"{PREFIX}/messages/{quote(message_id, safe='')}"
        await self._request(HttpRequest("DELETE", target, {}, idempotent=True))

    async def read(self, message_ids: Sequence[str]) -> int:
        """标为已读（≤ 1,000 条），返回剩下的未读数。"""
        request = post("/messages/read", {"message_ids": list(message_ids)}, idempotent=True)
        return (await self._call(Unread, request)).unread_count

    async def read_upto(self, message_id: str) -> int:
        """把不晚于它的全部标为已读，返回剩下的未读数。"""
        request = post("/messages/read", {"upto_message_id": message_id}, idempotent=True)
        return (await self._call(Unread, request)).unread_count

    # ── 投递状态 ────────────────────────────────────────────────────────────

    async def delivery(
        self, message_id: str, *, cursor: str | None = None, limit: int = 100
    ) -> DeliveryReport:
        """自己发出的一条到了谁那里。"""
        path = f"/messages/{quote(message_id, safe='')}/delivery"
        return await self._get(DeliveryReport, path, _given(limit=limit, cursor=cursor))

    async def delivery_statistics(
        self, user_id: PersonId, *, window_s: int | None = None
    ) -> DeliveryStatistics:
        path = f"/users/{path_segment(user_id)}/delivery-statistics"
        return await self._get(DeliveryStatistics, path, _given(window_s=window_s))

    async def presence(self, user_id: PersonId) -> UserPresence:
        """他此刻在不在；各条连接只有自己与管理员看得到。"""
        return await self._get(UserPresence, f"/presence/users/{path_segment(user_id)}", {})

    # ── 调用 ────────────────────────────────────────────────────────────────

    async def _get(self, kind: type[T], path: str, query: dict[str, str]) -> T:
        target = f"{PREFIX}{path}" + (f"?{urlencode(query)}" if query else "")
        return await self._call(kind, HttpRequest("GET", target, {}, idempotent=True))

    async def _call(self, kind: type[T], request: HttpRequest, *, signed: bool = True) -> T:
        answer = await self._request(request, signed=signed)
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise api_error(answer) from None

    async def _request(self, request: HttpRequest, *, signed: bool = True) -> HttpAnswer:
        retries = Retries(self._options, request)
        while True:
            try:
                return await self._once(request, signed)
            except (ApiError, ServerUnreachableError) as error:
                await asyncio.sleep(retries.wait_s(error))

    async def _once(self, request: HttpRequest, signed: bool) -> HttpAnswer:
        headers = {"Accept": "application/json", **request.headers}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        if signed and self._token is not None:
            headers["Authorization"] = f"Bearer {await obtain(self._token)}"
        answer = await self._http.call(replace(request, headers=headers))
        if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
            raise api_error(answer)
        return answer


class Retries:
    """一次调用的重试：值不值得再来，先等多久；阻塞的与异步的同一套。"""

    def __init__(self, options: RestOptions, request: HttpRequest) -> None:
        self._left = options.retries if request.idempotent else 0
        self._most_s = options.max_retry_wait_s
        self._backoff = Backoff(options.backoff_base_s, self._most_s, random.random)

    def wait_s(self, error: ApiError | ServerUnreachableError) -> float:
        """再来之前等多久（秒）；不值得再来的，抛出 ``error`` 自己。

        服务器说的时间之后再加抖动：大家听到的是同一个数（LESSONS 1）。
        """
        asked_s = 0.0
        if isinstance(error, ApiError):
            asked_s = error.retry_after_s or 0.0
            if error.status not in _BUSY or asked_s > self._most_s:
                raise error
        if self._left == 0:
            raise error
        self._left -= 1
        return asked_s + self._backoff.next_delay()


def post(
    path: str, body: object, headers: dict[str, str] | None = None, *, idempotent: bool = False
) -> HttpRequest:
    content = msgspec.json.encode(body)
    return HttpRequest("POST", f"{PREFIX}{path}", headers or {}, content, idempotent)


_FIELDS: Final = Draft.__struct_fields__


def body_of(draft: Draft) -> dict[str, object]:
    """没有替谁发的不提：从前的服务器不认得这一项。"""
    body = {name: getattr(draft, name) for name in _FIELDS}
    if draft.sender is None:
        del body["sender"]
    return body


def idempotency(key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": key or uuid.uuid4().hex}


def _given(**query: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in query.items() if value is not None}


def api_error(answer: HttpAnswer) -> ApiError:
    try:
        detail = msgspec.json.decode(answer.body, type=ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        # 反向代理的回答，或不是我们的服务器：正文不可信，不带进错误里
        detail = ErrorDetail("unexpected_answer", f"HTTP {answer.status}", answer.status in _BUSY)
    return ApiError(
        answer.status,
        detail.code,
        detail.message,
        temporary=detail.temporary,
        details=detail.details,
        retry_after_s=answer.retry_after_s,
    )


#: 剩下不到这么久就换新的；要比服务器发 ``token_expiring`` 的提前量（60 秒）长，
#: 否则那时给出的还是旧的。
REFRESH_BEFORE_S: Final = 90


class TokenKeeper:
    """可并发调用：同时只有一次登录或刷新在路上（刷新令牌是轮换的，用两次会吊销整族）。"""

    def __init__(
        self,
        rest: RestClient,
        username: str,
        password: str,
        *,
        refresh_before_s: float = REFRESH_BEFORE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``clock`` 用墙上时间：单调时钟在机器休眠时不走，醒来会把过期的当作有效。"""
        self._rest = rest
        self._username = username
        self._password = password
        self._refresh_before_s = refresh_before_s
        self._clock = clock
        self._lock = asyncio.Lock()
        self._tokens: Tokens | None = None
        self._expires_at = 0.0

    async def __call__(self, *, fresh: bool = False) -> str:
        """此刻有效的访问令牌；``fresh``：服务器说手里的过期了（我们的钟可以慢），换一枚。

        :raises ApiError: 用户名密码不对等；``temporary`` 为真才值得再试
        :raises ServerUnreachableError: 没有回答，稍后再试
        """
        async with self._lock:
            if self._tokens is None:
                return self._keep(await self._login())
            if not fresh and self._clock() < self._expires_at - self._refresh_before_s:
                return self._tokens.access_token
            return self._keep(await self._renew(self._tokens))

    def _keep(self, tokens: Tokens) -> str:
        self._tokens = tokens
        self._expires_at = self._clock() + tokens.expires_in_s
        return tokens.access_token

    async def _login(self) -> Tokens:
        return await self._rest.login(self._username, self._password)

    async def _renew(self, tokens: Tokens) -> Tokens:
        """刷新；刷新令牌已不被承认（过期、吊销）就重新登录。"""
        # 一旦送出，旧的刷新令牌就可能已经用掉：取消或没有回答时，下次从登录开始
        self._tokens = None
        try:
            return await self._rest.refresh(tokens.refresh_token)
        except ApiError as error:
            if not error.temporary:
                return await self._login()
            self._tokens = tokens  # 服务器说什么都没做
            raise
