"""请求体：一边解码一边验，遇到第一处错就停（A1）。

解码器认得每个字段的类型与上限，所以一个全是错的 1 MB 请求体只花几微秒，也不为每处错造一个对象；
先认证、后读请求体，因为它是排在令牌后面的一个依赖，不是 FastAPI 的 ``body``。

由 msgspec 编码的应答：里面有应用自己的 JSON，原文照抄，别的编码器不再过问（A3）。

请求体的上限：每条路由自己的；在读进内存之前、边读边数，读着的一共也有限（A16）。
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec
from fastapi import Request, Response
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from ..clock import now_ms
from ..errors import (
    InvalidInputError,
    InvalidJsonError,
    MeetingPushError,
    PayloadTooLargeError,
    RateLimitedError,
    UnavailableError,
    UnsupportedMediaTypeError,
)
from ..limits.rate import KeyedBuckets, rate_key
from ..model import Principal
from ..protocol import json_text
from ..settings import HttpSettings, MeetingSettings, MessageSettings
from .security import PRINCIPAL
from .turns import TURN, Turn

T = TypeVar("T")
Schema = dict[str, Any]

#: JSON 没有的数，许多写法却会写出来：说清楚是哪一样（422），而不是“不是 JSON”。
_NOT_FINITE: Final = (b"NaN", b"Infinity", b"-Infinity")
_AT_BYTE: Final = re.compile(r"\(byte (\d+)\)")
#: msgspec 的说明：``Expected `int` >= 1 - at `$.messages[0].recipient_ids[1]` ``。
_AT_PATH: Final = re.compile(r" - at `(?:key(?: in)? )?\$?\.?(.*)`$", re.DOTALL)
_QUOTED_VALUE: Final = re.compile(r" '.*'", re.DOTALL)
_MAX_TEXT: Final = 200


class JsonBody(Generic[T]):
    """依赖：``Annotated[DraftIn, Depends(JsonBody(DraftIn))]``。

    ``limits`` 是由设置定的上限（字段名 → JSON Schema 的几项），只为 OpenAPI；由服务检查。
    ``admins_too``：大的请求体，管理员与密钥的也一个一个地办；不然是应用自己的，不排。
    """

    def __init__(
        self,
        kind: type[T],
        limits: Mapping[str, Schema] | None = None,
        *,
        admins_too: bool = False,
    ) -> None:
        self._admins_too, self._decoder = admins_too, msgspec.json.Decoder(kind)
        self.schema = schema_of(kind, limits or {})
        self._lists = json_text.Lists(self.schema)

    async def __call__(self, request: Request) -> T:
        """:raises InvalidInputError: 415、400、422；说出第一处错，绝不回显输入（可能是密码）"""
        kind = request.headers.get("content-type", "")
        if kind != _JSON and not _is_json(kind):
            raise UnsupportedMediaTypeError("content-type must be application/json")
        body = await _whole(request)
        turn: Turn | None = request.scope.get(TURN)
        if turn is not None:
            large = len(body) > _LARGE_BYTES and (self._admins_too or not _is_ours(request))
            await turn.take(_who(request) if large else None)
        if len(body) <= _LARGE_BYTES:
            return self.decode(body)
        self._lists.check(body)
        decoded = self.decode(body)
        await asyncio.sleep(0)  # 解码已占了一段，别人先来一次
        return decoded

    def decode(self, body: bytes) -> T:
        try:
            try:
                return self._decoder.decode(body)
            except msgspec.ValidationError:  # 整数也可以写成 ``3.0``
                return json_text.decode(self._decoder, body)
        except msgspec.ValidationError as error:
            raise _invalid(str(error)) from None
        except RecursionError:
            raise _first("body", "nested too deeply") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if _is_not_finite(body, str(error)):
                raise _first("body", "numbers must be finite") from None
            raise InvalidJsonError("the body is not valid JSON") from None


async def _whole(request: Request) -> bytes:
    """不用 ``request.body()``：它替请求留着一份，几 MB 要到应答之后才放手。

    :raises ClientDisconnect: 说到一半走了
    """
    chunks, more = list[bytes](), True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def schema_of(kind: object, limits: Mapping[str, Schema]) -> Schema:
    """``kind`` 的 JSON Schema，引用都展开：嵌进别人的 OpenAPI 里也对。"""
    schema = msgspec.json.schema(kind)
    definitions = schema.pop("$defs", {})
    return _expanded(schema, definitions, limits)


def _expanded(schema: Schema, definitions: Schema, limits: Mapping[str, Schema]) -> Schema:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].removeprefix("#/$defs/")]
    expanded: Schema = {}
    for key, value in schema.items():
        if key == "properties":
            expanded[key] = {
                name: _expanded(each, definitions, limits) | limits.get(name, {})
                for name, each in value.items()
            }
        elif isinstance(value, dict) and key in ("items", "additionalProperties"):
            expanded[key] = _expanded(value, definitions, limits)
        elif key in ("anyOf", "prefixItems"):
            expanded[key] = [_expanded(each, definitions, limits) for each in value]
        else:
            expanded[key] = value
    return expanded


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )


def _is_not_finite(body: bytes, message: str) -> bool:
    found = _AT_BYTE.search(message)
    if found is None:
        return False
    at = int(found[1])
    return body.startswith(_NOT_FINITE, at) or body.startswith(_NOT_FINITE, max(at - 1, 0))


def _invalid(message: str) -> InvalidInputError:
    path = _AT_PATH.search(message)
    text = _QUOTED_VALUE.sub("", message[: path.start()] if path else message)
    return _first(path[1] if path else "body", text)


def _first(field: str, text: str) -> InvalidInputError:
    details = [{"field": field[:_MAX_TEXT], "message": text[:_MAX_TEXT]}]
    return InvalidInputError("the request is invalid", details=details)


_JSON = "application/json"


#: 令牌与私人的消息不许任何缓存留着；浏览器不许猜类型（A17）。
PRIVATE: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_JSON_HEADERS: Final = (
    (b"content-type", _JSON.encode()),
    *((name.lower().encode(), value.encode()) for name, value in PRIVATE.items()),
)


class JsonAnswer(Response):
    """头都是定好的，不必每次再编。"""

    def __init__(self, body: bytes, status: int) -> None:
        self.status_code, self.body, self.background = status, body, None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), *_JSON_HEADERS]


def json_answer(value: object, status: int = 200) -> Response:
    return JsonAnswer(msgspec.json.encode(value), status)


def answers(kind: type, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """路由的 ``responses``：``status`` 是一个 ``kind``。"""
    return {status: {"content": {_JSON: {"schema": schema_of(kind, {})}}}}


_AUTH_BYTES: Final = 10 * 1024
#: 一千个消息 id 的列表是 30 KB。
_ORDINARY_BYTES: Final = 64 * 1024
#: 一组几百条，各带标签与几句话。
_ALERTMANAGER_BYTES: Final = 1024 * 1024
#: 一个管理员的 Alertmanager 每秒这么多字节（约一百条），攒着两个最大的：每一条都是库里的一行。
_ALERTMANAGER_BYTES_PER_S, _ALERTMANAGER_BURST = 128 * 1024, 2 * _ALERTMANAGER_BYTES
#: JSON 里一个字节至多写成六个（``\\u0000``）；一个收件人至多这么多。
_ESCAPED: Final = 6
_ID_BYTES: Final = 72
#: 这么小的不记账：反正躺在服务器的读缓冲里。
_UNCOUNTED_BYTES: Final = 64 * 1024
#: 一份（一个收件人，或 1 KB）在 JSON 里至多约这么多字节；攒着的少算些，界限以上的先读后拒也要钱。
_BYTES_PER_UNIT, _BURST_BYTES_PER_UNIT = 8 * 1024, 1024
#: 大过它的轮到一个办一个（``LargeTurns``）；管理员与密钥的是应用自己的，不排。
_LARGE_BYTES: Final = 8 * 1024
#: 同时读着的，以 ``max_request_bytes`` 计：一个人的、一共的。
_SHARE, _TOTAL = 1.5, 6


class BodyBudget:
    """读着的（还没有办完的）大请求体一共占多少；一个人占不完。"""

    def __init__(self, share: float, total: float, flow: KeyedBuckets | None = None) -> None:
        self._share = share
        self._total = total
        self._flow = flow
        self._by_key: Counter[Hashable] = Counter()

    def take(self, key: Hashable, size: int) -> None:
        """:raises RateLimitedError: 他的份额满了，或一阵里来得太多：拒绝之前，读与解码也花 CPU
        :raises UnavailableError: 一共的满了
        """
        if self._flow is not None and not self._flow.take(key, now_ms(), size):
            raise RateLimitedError("too many bytes in a short time", retry_after_s=1)
        if self._by_key[key] + size > self._share:
            raise RateLimitedError("too many large requests at once", retry_after_s=1)
        if self._by_key.total() + size > self._total:
            raise UnavailableError("too many large requests at once", cause="overloaded")
        self._by_key[key] += size

    def give_back(self, key: Hashable, size: int) -> None:
        self._by_key[key] -= size
        if not self._by_key[key]:
            del self._by_key[key]


@dataclass(frozen=True, slots=True)
class BodyRule:
    """一条路由的：至多 ``most`` 字节，从 ``budget`` 里出；``free`` 之内的不记账。"""

    most: int
    budget: BodyBudget
    free: int = _UNCOUNTED_BYTES

    def check(self, request: Request) -> None:
        """:raises PayloadTooLargeError: 声明的就太长；还没有读"""
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self.most:
            raise self.too_large()

    def too_large(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(f"the body is larger than {self.most} bytes")


def ordinary() -> BodyRule:
    return BodyRule(_ORDINARY_BYTES, BodyBudget(_ORDINARY_BYTES * _SHARE, _ORDINARY_BYTES * _TOTAL))


class BodyRules:
    """各路由的上限，由它收什么算出；都不超过 ``max_request_bytes``。"""

    def __init__(
        self, http: HttpSettings, messages: MessageSettings, meeting: MeetingSettings
    ) -> None:
        self._most = http.max_request_bytes
        self._budget = BodyBudget(self._most * _SHARE, self._most * _TOTAL, _flow(messages))
        self._alertmanager = BodyBudget(
            _ALERTMANAGER_BURST,
            _ALERTMANAGER_BYTES * _TOTAL,
            KeyedBuckets(_ALERTMANAGER_BYTES_PER_S, _ALERTMANAGER_BURST),
        )
        text = (
            messages.max_content_bytes + messages.max_data_bytes + messages.max_title_chars * 4
        ) * _ESCAPED + _ORDINARY_BYTES
        self._by_path = {
            "/messages": text + messages.max_recipients * _ID_BYTES,
            "/messages/batch": self._most,
            "/messages/broadcast": text,
            "/meetings": _ORDINARY_BYTES + meeting.max_participants * _ID_BYTES,
        }

    def of(self, path: str) -> BodyRule:
        """``path`` 在 ``/api/v1`` 之下。"""
        if path.startswith("/auth/"):
            return BodyRule(min(_AUTH_BYTES, self._most), self._budget)
        if path == "/alerts/alertmanager":
            return BodyRule(min(_ALERTMANAGER_BYTES, self._most), self._alertmanager, free=0)
        if path.startswith("/meetings/"):
            path = "/meetings"
        return BodyRule(min(self._by_path.get(path, _ORDINARY_BYTES), self._most), self._budget)


class BoundedBody:
    """代替 ``receive``：边读边数；用完要 ``close``。"""

    def __init__(self, request: Request, rule: BodyRule) -> None:
        self._scope = request.scope  # 不指着请求：它指着我们，一个环会留到下一次回收
        self._receive = request.receive
        self._rule = rule
        self._seen = 0
        self._taken: list[tuple[Hashable, int]] = []
        self._error: MeetingPushError | None = None

    async def __call__(self) -> Message:
        """:raises MeetingPushError: 太长，或读着的太多；``close`` 还会说一次"""
        message = await self._receive()
        size = len(message.get("body", b""))
        self._seen += size
        try:
            self._count(size)
        except MeetingPushError as error:
            self._error = error
            raise
        return message

    def _count(self, size: int) -> None:
        if self._seen > self._rule.most:
            raise self._rule.too_large()
        if self._seen > self._rule.free:
            key = _who(Request(self._scope))
            self._rule.budget.take(key, size)
            self._taken.append((key, size))

    def close(self) -> MeetingPushError | None:
        """还回记着的账；返回越过的那一项。

        它的回溯指着读到一半的正文，正文的读者又指着它：不拆开，几百 KB 要等一次长的垃圾回收。
        """
        for key, size in self._taken:
            self._rule.budget.give_back(key, size)
        self._taken.clear()
        error, self._error = self._error, None
        return None if error is None else error.with_traceback(None)


class _Head(Headers):
    """头只看一遍；键都以小写来问，同名的取头一个。"""

    def __init__(self, lines: list[tuple[bytes, bytes]]) -> None:
        super().__init__(raw=lines)
        first = {n.decode("latin-1"): v.decode("latin-1") for n, v in reversed(lines)}
        self.get = first.get  # type: ignore[method-assign]  # 一个请求问八次


class HotRequest(Request):
    """热路上的：一个请求只造一个，读请求体的那一层换进来。"""

    headers: Headers = None  # type: ignore[assignment]  # 盖住框架的 ``property``

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(scope, receive)
        self.headers = _Head(scope["headers"])

    def through(self, receive: Receive) -> HotRequest:
        self._receive = receive
        return self


def through(request: Request, receive: Receive) -> Request:
    """同一个请求，请求体由 ``receive`` 来。"""
    if isinstance(request, HotRequest):
        return request.through(receive)
    return Request(request.scope, receive)


def _flow(messages: MessageSettings) -> KeyedBuckets | None:
    """一个人的大请求体每秒多少字节：与他能发多少相称；不限发送的也不限它。"""
    per_s, burst = messages.sends_per_user_per_s, messages.sends_per_user_burst
    return KeyedBuckets(per_s * _BYTES_PER_UNIT, burst * _BURST_BYTES_PER_UNIT) if per_s else None


def _is_ours(request: Request) -> bool:
    """管理员或后端的密钥：应用自己的。"""
    principal: Principal | None = request.scope.get(PRINCIPAL)
    return principal is not None and (principal.is_admin or principal.key_id is not None)


def _who(request: Request) -> Hashable:
    """认证过的是他；还没有的是他的地址。"""
    principal: Principal | None = request.scope.get(PRINCIPAL)
    if principal is not None:
        return principal.user_id
    return rate_key(request.client.host) if request.client is not None else ""
