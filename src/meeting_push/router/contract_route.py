"""自带错误格式的路由：内嵌进别人的应用时，不必动那个应用的错误处理，也不必改他的 OpenAPI。

一张平的路由表：字面的路径在前，HEAD 与 GET 同样回答，405 说出这个路径收的全部方法（C4）。

热路的门：方法与路径对上的，不经框架的中间件、路由、依赖求解；回答与经过它的一样。"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from copy import copy
from http import HTTPStatus
from os import urandom
from typing import Any, Final, NamedTuple

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from ..errors import MeetingPushError, RateLimitedError
from ..http.cors import Cors, CrossOrigin
from ..http.listener import LINE, UNWANTED, has_left
from ..http.request_ids import KEY, NAME, Identified, chosen
from ..logs import carrying
from ..monitoring.edge_samples import RefusedRequests, RouteRequests
from .error_answers import (
    ErrorAnswer,
    error_field,
    error_response,
    method_not_allowed,
    on_expected,
    on_invalid_request,
    on_unexpected,
    possible_errors,
)
from .json_body import (
    PRIVATE,
    BodyRule,
    BoundedBody,
    HotRequest,
    JsonAnswer,
    JsonBody,
    ordinary,
    through,
)
from .security import PRINCIPAL
from .turns import TURN, Turn, Turns

API_PREFIX: Final = "/api/v1"
#: 走了的人的回答，没有谁看得到；日志与计数里认得它。
_ASKER_GONE: Final = 499

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Out(BaseModel):
    """应答里的一样东西；``model_validate`` 从同名的属性取。"""

    model_config = ConfigDict(from_attributes=True)


class ContractRoute(APIRoute):
    """我们的错误与校验失败在路由里就变成 contract 的错误体；OpenAPI 也照实说（C10）。

    ``refused``、``requests``：拒绝了的、全部的在那里计数；``body_rule``：请求体的上限，没填的用一个保守的；
    ``turns``：轮流办事，没填的不轮流；``cors``：哪些来源的页面读得到。由 ``assembly.routes`` 填上。
    ``allow``：这个路径收的全部方法，由 ``route_table`` 填上；一个路径有几条路由，405 说的是全部。
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        ours = path.startswith(API_PREFIX)  # 运维的端点自己说
        errors = possible_errors(path, options.get("methods") or ()) if ours else {}
        given = options.pop("responses") or {}
        super().__init__(path, endpoint, responses={**errors, **given}, **options)
        # 都是同一个样子：框架给每条路由的每个状态另造一个，五十条路由就是五百个
        self.response_fields |= {one: error_field() for one in errors if one not in given}
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
        self.cors = Cors()
        self._has_body = body is not None
        self.refused: RefusedRequests | None = None
        self.requests = RouteRequests("", path)
        #: 热路：怎样办，``fits``。
        self.direct: tuple[Handler, Callable[[Request], bool]] | None = None
        # 先认证，后读请求体：不靠各个函数里参数的次序（A16）
        self.dependant.dependencies.sort(key=lambda each: isinstance(each.call, JsonBody))
        self.allow = frozenset(methods_of(self))

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            return await self.answer(handle, request)

        return answer

    def go_direct(self, handle: Handler, fits: Callable[[Request], bool]) -> None:
        """热路：不经框架的依赖求解与它的几层栈；``fits`` 为假的仍由它来办。

        合进别人的应用时（``include_router`` 可以带自己的依赖）框架另造一个，不走这里。
        """
        framework = self.app
        self.direct = handle, fits

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive, send)
            if fits(request):
                response = await self.answer(handle, request)
                await response(scope, receive, send)
            else:
                await framework(scope, receive, send)

        self.app = app

    async def answer(self, handle: Handler, request: Request) -> Response:
        began, status = time.perf_counter(), HTTPStatus.INTERNAL_SERVER_ERROR.value
        try:
            response = await self._in_turn(handle, request)
            status = response.status_code
        finally:
            count(self.requests, status, time.perf_counter() - began)
        if not isinstance(response, JsonAnswer):
            self._note(response)
            for name, value in PRIVATE.items():
                response.headers.setdefault(name, value)
        return response

    async def _in_turn(self, handle: Handler, request: Request) -> Response:
        """有请求体的，收完才领号（``JsonBody``）：慢慢发的占不住位子。"""
        if self.turns is None:
            return await _bounded(handle, request, self.body_rule)
        # 登录、注册、刷新各排各的队，位子让得也快：密码在线程里算，不占循环
        line = "" if self.body_field is None else self.path
        turn = request.scope[TURN] = Turn(self.turns, request, line)
        try:
            if not self._has_body:
                if self._asker_left(request):
                    return Response(status_code=_ASKER_GONE)
                if self.body_field is None:  # 登录、注册不是读：同一个地址后面的别人也在登录（A8）
                    turn.begin_reading()
                if await turn.take() and self._asker_left(request):
                    return Response(status_code=_ASKER_GONE)
            response = await _bounded(handle, request, self.body_rule)
        except RateLimitedError as error:
            response = error_response(error)
        finally:
            turn.end()
            del request.scope[TURN]  # 它指着 ``request``：一个环会把读到一半的正文留到下一次回收
        if HTTPStatus.BAD_REQUEST <= response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
            request.scope.get(UNWANTED, _nothing)()
            await self._pause(request, turn.refusal_delay_s())
        if (principal := request.scope.get(PRINCIPAL)) is not None:
            self.turns.trust(request, principal.user_id)
        return response

    def _asker_left(self, request: Request) -> bool:
        """已经走了的，不必替他办（A14）；有请求体的照常收。"""
        return self.body_field is None and has_left(request.scope.get(LINE))

    async def _pause(self, request: Request, delay_s: float) -> None:
        """等到该回答了为止；没有请求体的走了就不等：几百个走了的各留着几十 KB（A14）。"""
        if self._has_body or not delay_s:
            await asyncio.sleep(delay_s)
            return
        await until_gone(request.receive, delay_s)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Identified(CrossOrigin(self._handle, self.cors))(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in methods_of(self):
            await super().handle(scope, receive, send)
        else:
            answer = method_not_allowed(self.allow)
            self._note(answer)
            count(self.requests, answer.status_code, 0)
            if self.turns is not None:  # 没有的方法也是撞门
                key = self.turns.key(Request(scope))
                await until_gone(receive, self.turns.refusal_delay_s(key, 1))
            await answer(scope, receive, send)

    def _note(self, response: Response) -> None:
        if self.refused is not None and isinstance(response, ErrorAnswer):
            self.refused.note(response.status_code, response.code)


def count(requests: RouteRequests, status: int, seconds: float) -> None:
    """又答了一个。"""
    requests.statuses[f"{status // 100}xx"] += 1
    requests.durations.record(seconds)


async def until_gone(receive: Receive, delay_s: float) -> None:
    """等这么久，或等到他走了；请求体读了就丢。"""
    if not delay_s:
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(delay_s):
            while (await receive())["type"] != "http.disconnect":
                pass


def _nothing() -> None:
    """别的服务器没有留着什么。"""


async def _bounded(handle: Handler, request: Request, rule: BodyRule) -> Response:
    """请求体越过这条路由的上限，就以它回答：框架会把读时的异常换成别的。"""
    body = BoundedBody(request, rule)
    try:
        rule.check(request)
        response = await handle(through(request, body))
    except MeetingPushError as error:
        response = await on_expected(request, error)
    except RequestValidationError as error:
        response = await on_invalid_request(request, error)
    except ClientDisconnect:  # 说到一半走了
        response = Response(status_code=_ASKER_GONE)
    except HTTPException:
        if (refused := body.close()) is None:
            raise
        return error_response(refused)
    finally:
        refused = body.close()
    return response if refused is None else error_response(refused)


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


def complete(routes: Iterable[BaseRoute], cors: Cors | None = None) -> list[BaseRoute]:
    """``routes`` 里各路径的次序不变，只是带参数的排到字面的后面；都归 ``cors`` 管。"""
    table = sorted(_with_head(routes), key=_has_parameter)
    allowed = defaultdict[str, set[str]](set)
    for route in table:
        if isinstance(route, APIRoute):
            allowed[route.path] |= methods_of(route)
    for route in table:
        if isinstance(route, ContractRoute):
            route.allow = frozenset(allowed[route.path])
            route.cors = cors or route.cors
    return sorted([*table, *_closed(table, allowed, cors or Cors())], key=_has_parameter)


def _with_head(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """服务器不写 HEAD 的正文，所以同一个函数就能回答；OpenAPI 里不必再说一遍。"""
    for route in routes:
        yield route
        if not isinstance(route, APIRoute):
            continue
        methods = methods_of(route)
        if "GET" in methods and "HEAD" not in methods:
            head = copy(route)
            head.methods = {"HEAD"}
            head.include_in_schema = False
            yield head


def _closed(
    table: Sequence[BaseRoute], allowed: dict[str, set[str]], cors: Cors
) -> Iterator[Route]:
    """``GET /messages/batch`` 不是 id 为 batch 的消息：字面的路径不落到带参数的路由里。"""
    parametrised = [each for each in table if isinstance(each, Route) and _has_parameter(each)]
    for path, methods in allowed.items():
        if any(each.path_regex.match(path) and each.path != path for each in parametrised):
            closed = CrossOrigin(method_not_allowed(methods), cors)
            yield Route(path, Identified(closed), include_in_schema=False)


def _has_parameter(route: BaseRoute) -> bool:
    return "{" in getattr(route, "path", "")


# ── 热路的门 ──────────────────────────────────────────────────────────────


class _Hot(NamedTuple):
    """一条热路；``cors``：名单空着的没有。"""

    route: ContractRoute
    handle: Handler
    fits: Callable[[Request], bool]
    cors: Cors | None


class HotDoor:
    """在 ``app`` 的前面认出热路；别的都归 ``behind``，没有给就是 ``app``。"""

    def __init__(self, app: FastAPI, behind: ASGIApp | None = None) -> None:
        self._behind = behind or app
        self._hot = {
            (method, route.path): _Hot(route, *route.direct, route.cors or None)
            for route in app.routes
            if isinstance(route, ContractRoute) and route.direct is not None
            for method in methods_of(route)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # 挂在前缀下的，路径要由框架去掉它
        if scope["type"] == "http" and not scope.get("root_path"):
            hot = self._hot.get((scope["method"], scope["path"]))
            if hot is not None:
                request = HotRequest(scope, receive)
                if hot.fits(request):
                    await _answer_hot(hot, request, send)
                    return
        await self._behind(scope, receive, send)


async def _answer_hot(hot: _Hot, request: HotRequest, send: Send) -> None:
    given = request.headers.get("x-request-id")
    known = request.scope[KEY] = urandom(8).hex() if given is None else chosen(given)
    carrying({"request_id": known})
    unexpected: Exception | None = None
    try:
        response = await hot.route.answer(hot.handle, request)
    except Exception as error:  # noqa: BLE001 — 同框架最外面的那一层：先回答，再抛给服务器
        unexpected = error
        response = await on_unexpected(request, error)
    lines = [*response.raw_headers, (NAME, known.encode())]
    if hot.cors is not None:
        lines += hot.cors.headers(request.scope["headers"])
    await _say(send, response.status_code, lines, response.body)
    if unexpected is not None:
        try:
            raise unexpected
        finally:
            del unexpected  # 它的回溯指着这一帧：一个环，连同请求等着垃圾回收


async def _say(
    send: Send, status: int, lines: Iterable[tuple[bytes, bytes]], body: bytes | memoryview
) -> None:
    """一次写出：uvicorn 的 ``send`` 分两次来，逐个头再查一遍字符；我们的头都是定好的。"""
    cycle = getattr(send, "__self__", None)
    if isinstance(cycle, RequestResponseCycle) and _is_plain(cycle):
        _write(cycle, status, lines, body)
        return
    await send({"type": "http.response.start", "status": status, "headers": [*lines]})
    await send({"type": "http.response.body", "body": body})


def _is_plain(cycle: RequestResponseCycle) -> bool:
    """还没有开始答，对方还在，也读得动。"""
    return not (cycle.disconnected or cycle.response_started or cycle.flow.write_paused)


def _write(
    cycle: RequestResponseCycle,
    status: int,
    lines: Iterable[tuple[bytes, bytes]],
    body: bytes | memoryview,
) -> None:
    """同 ``RequestResponseCycle.send`` 答完时所做的。"""
    said = [b"%b: %b\r\n" % line for line in (*cycle.default_headers, *lines)]
    if not cycle.keep_alive:
        said.append(b"connection: close\r\n")
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(b"".join((STATUS_LINE[status], *said, b"\r\n", body)))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
