"""没有 WebSocket 时：SSE 的普通 ASGI 路由（快驱动在前时到不了这里），与它的确认。

不用 ``from __future__ import annotations``：见 ``message_manage``。
"""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response
from msgspec import Meta, Struct

from ..errors import ForbiddenError, NotFoundError
from ..limits.rate import rate_key
from ..model import MAX_SAFE_INTEGER, Principal
from ..protocol.frames import MAX_ACK_IDS
from ..websocket.asgi import EventStream, take_handshake
from ..websocket.event_line import CONTENT_TYPE
from ..websocket.manager import ConnectionManager
from ..websocket.rest_acks import RestAcks
from .contract_route import ContractRoute, Out, contract_router
from .error_answers import ErrorOut
from .json_body import JsonBody
from .message_manage import MessageId
from .security import Security

_QUERY: Final = {
    "token": "访问令牌；头里的 Authorization 更好：地址会进代理的日志",
    "ticket": "只用一次的票据",
    "device_id": "这台设备的名字，至多 64 个字符",
    "device_info": "给人看的，至多 256 个字符",
    "epoch": "上次的位置里的 epoch",
    "last_seq": "上次的位置里的 seq",
}
_TEXT: Final = {"schema": {"type": "string"}}
_ERROR: Final = {"model": ErrorOut}
_STREAM: Final[dict[str, Any]] = {
    "parameters": [
        *({"name": n, "in": "query", "description": d, **_TEXT} for n, d in _QUERY.items()),
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "上次的位置 `<epoch>:<seq>`；比查询里的优先",
            **_TEXT,
        },
    ],
    "security": [{"HTTPBearer": []}, {}],
}
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "每一帧一个事件：`data` 是那一帧，`id` 是位置；最后可有 `event: close`",
        "content": {CONTENT_TYPE: {"schema": {"type": "string"}}},
    },
    **dict.fromkeys((401, 403, 404, 422, 429, 503), _ERROR),
}


def event_stream_router(manager: ConnectionManager) -> APIRouter:
    router = APIRouter(route_class=ContractRoute, tags=["stream"])
    admission, authenticator = manager.admission, manager.authenticator

    @router.get(
        "/sse/user/{user_id}/messages",
        summary="没有 WebSocket 时：事件流",
        status_code=200,
        response_class=Response,
        responses=_RESPONSES,
        openapi_extra=_STREAM,
    )
    async def events(user_id: str, request: Request) -> Response:
        """同一个人的 WebSocket 会收到的，一样的限制；确认用 `POST /api/v1/acks`。"""
        person = authenticator.ids.read(user_id)
        handshake = take_handshake(request, person or 0, authenticator.proxies)
        if person is not None and manager.origin_allowed(handshake):
            await admission.pause(manager.upgrade_delay_s(handshake))
            return EventStream(manager, handshake)
        await admission.keep_waiting(rate_key(handshake.ip_address))
        if person is None:
            raise NotFoundError("there is no event stream here")
        raise ForbiddenError("this origin is not allowed")

    return router


class AcksIn(Struct, forbid_unknown_fields=True):
    """``message_ids``，或 ``connection_id`` 与 ``upto``：那条连接上推过的、seq 不超过它的。"""

    message_ids: Annotated[list[MessageId], Meta(min_length=1, max_length=MAX_ACK_IDS)] | None = (
        None
    )
    connection_id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    upto: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)] | None = None

    def __post_init__(self) -> None:
        cumulative = self.connection_id is not None and self.upto is not None
        partly = self.connection_id is not None or self.upto is not None
        if cumulative == (self.message_ids is not None) or partly != cumulative:
            raise ValueError("give either message_ids, or connection_id and upto")


class AcksOut(Out):
    """``unknown``：不是他的、不认识的 id。"""

    accepted: int
    unknown: list[str]


def acks_router(acks: RestAcks, security: Security) -> APIRouter:
    """``/acks``；前缀由调用者加。"""
    router = contract_router(tags=["stream"])

    @router.post("/acks", summary="确认收到（没有 WebSocket 的客户端）")
    async def acknowledge(
        user: Annotated[Principal, Depends(security.current_principal)],
        body: Annotated[AcksIn, Depends(JsonBody(AcksIn))],
    ) -> AcksOut:
        """同 WebSocket 的 `ack` 帧，幂等。409：没有这条连接，改用 `message_ids`。"""
        if body.message_ids is not None:
            found = await acks.by_ids(user.user_id, body.message_ids)
            return AcksOut(accepted=found.accepted, unknown=list(found.unknown))
        assert body.connection_id is not None
        assert body.upto is not None
        accepted = await acks.upto(user.user_id, body.connection_id, body.upto)
        return AcksOut(accepted=accepted, unknown=[])

    return router
