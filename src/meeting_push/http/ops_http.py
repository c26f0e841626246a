"""裸网关端口上的 HTTP：只够回答探针与抓取指标，一问一答就关。"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, NamedTuple, cast

from ..logs import carry, logger
from .doorway import Doorway
from .refusals import BAD_REQUEST, HEAD_TOO_LARGE, TOO_MANY_HERE, TOO_SLOW, Refusal, say_farewell
from .request_ids import HEADER, chosen, given_in_head

MAX_REQUEST_BYTES: Final = 8192


class OpsAnswer(NamedTuple):
    status: int
    content_type: str
    body: bytes


_ONLY_GET: Final = Refusal(405, "method_not_allowed", "this path does not take this method")
_INTERNAL_ERROR: Final = Refusal(500, "internal_error", "something went wrong on our side")


def refused(refusal: Refusal) -> OpsAnswer:
    """错误体与 REST 的一样。"""
    return OpsAnswer(refusal.status, "application/json", refusal.body)


#: 路径 → 回答；不认识的路径给 404。
OpsEndpoint = Callable[[str], Awaitable[OpsAnswer]]


class OpsHttp(asyncio.Protocol):
    """读完请求头（≤ 8 KB，``timeout_s`` 之内），回答，关闭。"""

    def __init__(self, endpoint: OpsEndpoint, timeout_s: float, doorway: Doorway) -> None:
        self._endpoint = endpoint
        self._doorway = doorway
        self._leave: Callable[[], None] | None = None
        self._said = False
        self._timeout_s = timeout_s
        self._request = b""
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._give_up)
        peer = transport.get_extra_info("peername") or ("",)
        self._leave = self._doorway.enter(str(peer[0]))
        if self._leave is None:
            self._refuse(TOO_MANY_HERE)

    def data_received(self, data: bytes) -> None:
        if self._task is not None or self._said:
            return
        self._request += data
        if b"\r\n\r\n" in self._request:
            self._task = asyncio.get_running_loop().create_task(self._serve())
        elif len(self._request) > MAX_REQUEST_BYTES:
            self._refuse(HEAD_TOO_LARGE)

    def connection_lost(self, exc: Exception | None) -> None:
        self._part()
        if self._task is not None:
            self._task.cancel()

    def _give_up(self) -> None:
        if self._task is None:
            self._refuse(TOO_SLOW)
        else:
            self._transport.abort()

    def _refuse(self, refusal: Refusal) -> None:
        self._doorway.turned_away[refusal.code] += 1
        self._say(refusal.answer(given_in_head(self._request)))

    def _say(self, answer: bytes) -> None:
        """最后一句；请求体还没有读完的也听得到。"""
        self._part()
        self._said = True
        if not self._transport.is_closing():
            say_farewell(self._transport, answer)

    def _part(self) -> None:
        self._timer.cancel()
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    async def _serve(self) -> None:
        known = chosen(given_in_head(self._request))
        carry(request_id=known)  # 这个任务只办这一个请求
        answer, with_body = await self._answer(self._request.partition(b"\r\n")[0])
        allow = "Allow: GET, HEAD\r\n" if answer.status == HTTPStatus.METHOD_NOT_ALLOWED else ""
        head = (
            f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
            f"Content-Type: {answer.content_type}\r\n"
            f"Content-Length: {len(answer.body)}\r\n"
            f"{allow}Cache-Control: no-store\r\n"
            f"{HEADER}: {known}\r\n"
            "Connection: close\r\n\r\n"
        )
        self._say(head.encode() + (answer.body if with_body else b""))

    async def _answer(self, request_line: bytes) -> tuple[OpsAnswer, bool]:
        parts = request_line.decode("ascii", "replace").split(" ")
        if len(parts) != 3:
            return refused(BAD_REQUEST), True
        method, target, _ = parts
        if method not in ("GET", "HEAD"):
            return refused(_ONLY_GET), True
        try:
            answer = await self._endpoint(target.partition("?")[0])
        except Exception as error:  # noqa: BLE001 — 探针的错不该变成没有回答
            logger.opt(exception=error).error("ops_endpoint_failed")
            answer = refused(_INTERNAL_ERROR)
        return answer, method == "GET"
