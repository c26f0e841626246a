"""自带错误格式的路由：内嵌进别人的应用时，不必动那个应用的错误处理，也不必改他的 OpenAPI。"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..errors import MeetingPushError, PayloadTooLargeError, RateLimitedError
from ..monitoring.refused_requests import RefusedRequests
from .body_limit import BodyRule, BoundedBody, ordinary
from .errors import ErrorAnswer, error_response, method_not_allowed, on_expected, on_invalid_request
from .json_body import TURN, JsonBody
from .turns import Turn, Turns

API_PREFIX: Final = "/api/v1"
#: 令牌与私人的消息不许任何缓存留着；浏览器不许猜类型（A17）。
PRIVATE: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class ErrorDetail(BaseModel):
    code: str = Field(description="稳定的，小写下划线", examples=["invalid_input"])
    message: str
    temporary: bool = Field(description="原样再来一次是否可能成功")
    details: Any


class ErrorOut(BaseModel):
    """每个错误应答的样子。"""

    error: ErrorDetail


class ContractRoute(APIRoute):
    """我们的错误与校验失败在路由里就变成 contract 的错误体；OpenAPI 也照实说（C10）。

    ``refused``：拒绝了的在那里计数；``body_rule``：请求体的上限，没填的用一个保守的；``turns``：轮流办事，没填的不轮流。都由
    ``assembly.routes`` 填上。
    ``allow``：这个路径收的全部方法，由 ``route_table`` 填上；一个路径有几条路由，405 说的是全部。
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        declared = {
            **_errors(path, options.get("methods") or ()),
            **(options.pop("responses") or {}),
        }
        super().__init__(path, endpoint, responses=declared, **options)
        calls = [each.call for each in _flattened(self.dependant)]
        secured = any(isinstance(call, SecurityBase) for call in calls)
        body = next((call for call in calls if isinstance(call, JsonBody)), None)
        described: dict[str, Any] = {} if secured else {"security": []}
        if body is not None:
            content = {"application/json": {"schema": body.schema}}
            described["requestBody"] = {"required": True, "content": content}
        self.openapi_extra = {**described, **(self.openapi_extra or {})}
        self.body_rule: BodyRule = ordinary()
        self.turns: Turns | None = None
        self._has_body = body is not None
        self.refused: RefusedRequests | None = None
        # 先认证，后读请求体：不靠各个函数里参数的次序（A16）
        self.dependant.dependencies.sort(key=lambda each: isinstance(each.call, JsonBody))
        self.allow = frozenset(methods_of(self))

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            response = await self._in_turn(handle, request)
            self._note(response)
            for name, value in PRIVATE.items():
                response.headers.setdefault(name, value)
            return response

        return answer

    async def _in_turn(self, handle: Handler, request: Request) -> Response:
        """有请求体的，收完才领号（``JsonBody``）：慢慢发的占不住位子。"""
        if self.turns is None:
            return await _bounded(handle, request, self.body_rule)
        turn = request.scope[TURN] = Turn(self.turns, request)
        try:
            if not self._has_body:
                turn.begin_reading()
                await turn.take()
            response = await _bounded(handle, request, self.body_rule)
        except RateLimitedError as error:
            response = error_response(error)
        finally:
            turn.end()
            del request.scope[TURN]  # 它指着 ``request``：一个环会把读到一半的正文留到下一次回收
        if HTTPStatus.BAD_REQUEST <= response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
            await asyncio.sleep(self.turns.refusal_delay_s(self.turns.key(request)))
        if getattr(request.state, "principal", None) is not None:
            self.turns.trust(request)
        return response

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in methods_of(self):
            await super().handle(scope, receive, send)
        else:
            answer = method_not_allowed(self.allow)
            self._note(answer)
            await answer(scope, receive, send)

    def _note(self, response: Response) -> None:
        if self.refused is not None and isinstance(response, ErrorAnswer):
            self.refused.note(response.status_code, response.code)


async def _bounded(handle: Handler, request: Request, rule: BodyRule) -> Response:
    """请求体越过这条路由的上限，就以它回答：框架会把读时的异常换成别的。"""
    body = BoundedBody(request, rule)
    try:
        rule.check(request)
        response = await _contract(handle, Request(request.scope, body))
    except PayloadTooLargeError as error:
        response = error_response(error)
    except HTTPException:
        if (refused := body.close()) is None:
            raise
        return error_response(refused)
    finally:
        refused = body.close()
    return response if refused is None else error_response(refused)


async def _contract(handle: Handler, request: Request) -> Response:
    try:
        return await handle(request)
    except MeetingPushError as error:
        return await on_expected(request, error)
    except RequestValidationError as error:
        return await on_invalid_request(request, error)


def contract_router(prefix: str = "", **options: Any) -> APIRouter:
    """``/api/v1`` 之下的一组路由，``prefix`` 接在它后面；``options`` 同 ``APIRouter``。

    前缀写在路由里，合到一起就只是一张平的表：逐层 ``include_router``，每个请求多花约 0.3 ms。
    """
    return APIRouter(prefix=API_PREFIX + prefix, route_class=ContractRoute, **options)


def methods_of(route: Route) -> set[str]:
    return route.methods or set()


def _flattened(dependant: Dependant) -> Iterator[Dependant]:
    for each in dependant.dependencies:
        yield each
        yield from _flattened(each)


def _errors(path: str, methods: Collection[str]) -> dict[int | str, dict[str, Any]]:
    """这条路由可能回答的错误状态；运维的端点自己说。"""
    if not path.startswith(API_PREFIX):
        return {}
    statuses = {401, 403, 422, 429, 500, 503}
    if "{" in path:
        statuses |= {404, 409}
    if "POST" in methods:
        statuses |= {400, 404, 409, 413, 415}
    return {
        status: {"description": HTTPStatus(status).phrase, "model": ErrorOut}
        for status in sorted(statuses)
    }
