"""热路的门：方法与路径对上的，不经框架的中间件、路由、依赖求解；回答与经过它的一样。"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from fastapi import FastAPI, Request
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from ..http.cors import Cors
from ..http.request_ids import KEY, NAME, chosen, fresh
from ..logs import carrying
from .contract_route import ContractRoute, Handler, methods_of
from .error_answers import on_unexpected
from .json_body import HotRequest


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
                    await _answer(hot, request, send)
                    return
        await self._behind(scope, receive, send)


async def _answer(hot: _Hot, request: HotRequest, send: Send) -> None:
    given = request.headers.get("x-request-id")
    known = request.scope[KEY] = fresh() if given is None else chosen(given)
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
        raise unexpected


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
