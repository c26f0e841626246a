"""会议的 REST：召开、邀请、列出、结束、转录；以及会议 WebSocket 的路由。

不用 ``from __future__ import annotations``：理由同 ``message_manage``。
"""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, status

from ..limits.send_limits import SendQuota
from ..meeting.hub import MeetingHub
from ..meeting.service import MeetingRules, MeetingService
from ..model import Principal
from .contract_route import contract_router
from .delivery_manage import UserIdPath
from .json_body import JsonBody
from .meeting_models import (
    InviteIn,
    MeetingDetailOut,
    MeetingIn,
    MeetingsOut,
    TranscriptOut,
    meeting_limits,
)
from .meeting_socket import MEETING_ID_PATTERN, meeting_endpoint

MeetingIdPath = Annotated[str, Path(pattern=f"^{MEETING_ID_PATTERN}$")]
MeetingCursor = Annotated[str | None, Query(pattern=f"^{MEETING_ID_PATTERN}$")]
SegmentCursor = Annotated[str, Query(pattern="^[0-9]{1,16}$", description="从这一段之后开始")]
Limit = Annotated[int, Query(ge=1, le=200, description="一页几条")]


def meeting_router(
    service: MeetingService,
    current_principal: Callable[..., object],
    *,
    quota: SendQuota,
    rules: MeetingRules,
) -> APIRouter:
    """``/meetings…``；前缀由调用者加。

    进会议的人结束时各得一条通知：在请他进来时就记在账上，结束总能结束。
    """
    router = contract_router(tags=["meetings"])
    limits = meeting_limits(rules)
    CurrentUser = Annotated[Principal, Depends(current_principal)]  # noqa: N806 — 它是类型

    @router.post("/meetings", status_code=status.HTTP_201_CREATED, summary="召开会议")
    async def create(
        user: CurrentUser, body: Annotated[MeetingIn, Depends(JsonBody(MeetingIn, limits))]
    ) -> MeetingDetailOut:
        quota.charge_recipients(user, body.participant_ids)
        view = await service.create(user, body.title, body.participant_ids)
        return MeetingDetailOut.of_view(view)

    @router.get("/meetings", summary="我参加的会议，新的在前")
    async def page(
        user: CurrentUser,
        ended: bool | None = None,
        cursor: MeetingCursor = None,
        limit: Limit = 50,
    ) -> MeetingsOut:
        return MeetingsOut.of(await service.page(user, ended=ended, cursor=cursor, limit=limit))

    @router.get("/meetings/{meeting_id}", summary="一场会议（参与者、管理员）")
    async def get(meeting_id: MeetingIdPath, user: CurrentUser) -> MeetingDetailOut:
        return MeetingDetailOut.of_view(await service.get(meeting_id, user))

    @router.post("/meetings/{meeting_id}/participants", summary="邀请（召开者、管理员）")
    async def invite(
        meeting_id: MeetingIdPath,
        user: CurrentUser,
        body: Annotated[InviteIn, Depends(JsonBody(InviteIn, limits))],
    ) -> MeetingDetailOut:
        """已在其中的不变；会议已结束 409 ``meeting_ended``。"""
        quota.charge_recipients(user, body.participant_ids)
        view = await service.invite(meeting_id, user, body.participant_ids)
        return MeetingDetailOut.of_view(view)

    @router.delete(
        "/meetings/{meeting_id}/participants/{user_id}",
        status_code=status.HTTP_204_NO_CONTENT,
        summary="离开（本人），请人离开（召开者、管理员）",
    )
    async def leave(meeting_id: MeetingIdPath, user_id: UserIdPath, user: CurrentUser) -> None:
        """此后他看不到这场会议，他的连接以 4501 关闭。召开者自己不能离开（403）。"""
        await service.leave(meeting_id, user, user_id)

    @router.post("/meetings/{meeting_id}/end", summary="结束（召开者、管理员）")
    async def end(meeting_id: MeetingIdPath, user: CurrentUser) -> MeetingDetailOut:
        """重复结束无害；每个参与者得到恰好一条通知。"""
        return MeetingDetailOut.of_view(await service.end(meeting_id, user))

    @router.get("/meetings/{meeting_id}/transcript", summary="转录，按号升序")
    async def transcript(
        meeting_id: MeetingIdPath,
        user: CurrentUser,
        cursor: SegmentCursor = "0",
        limit: Limit = 100,
    ) -> TranscriptOut:
        segments = await service.transcript(meeting_id, user, int(cursor), limit + 1)
        return TranscriptOut.of(segments, limit)

    return router


def meeting_socket_router(hub: MeetingHub) -> APIRouter:
    """``/ws/meeting/{meeting_id}``：普通 ASGI，所以只在有 FastAPI 的角色（all、api）里。"""
    router = APIRouter()
    router.add_api_websocket_route(
        "/ws/meeting/{meeting_id}", meeting_endpoint(hub), name="meeting"
    )
    return router
