"""会议的 REST：召开、邀请、列出、结束、转录；以及会议 WebSocket 的路由。

不用 ``from __future__ import annotations``：理由同 ``message_manage``。
"""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Final, Self

from fastapi import APIRouter, Depends, Path, Query, status
from msgspec import Meta, Struct
from pydantic import Field
from starlette.websockets import WebSocket

from ..http.refusals import FOREIGN_ORIGIN, NOT_FOUND
from ..limits.send_limits import SendQuota
from ..meeting.hub import MeetingHub
from ..meeting.service import MeetingService
from ..meeting_model import Meeting, MeetingView
from ..model import Principal
from ..people.people import INTEGERS, People
from ..person_id import PersonId
from ..protocol.frames import UserId
from ..settings import MeetingSettings
from ..storage.rows import Page
from ..websocket.asgi import Endpoint, serve, take_handshake, turn_away
from ..websocket.handshake import Handshake
from .contract_route import Out, contract_router
from .json_body import JsonBody, Schema
from .message_manage import Limit
from .persons import InPath, Who
from .security import Security

#: 重复的只算一次；列得再长就不去数了（设置里的上限至多一万）。
MAX_LISTED: Final = 20_000


class MeetingIn(Struct, forbid_unknown_fields=True):
    """要召开的会议；由设置定的上限由服务检查（413/422）。"""

    title: Annotated[str, Meta(min_length=1)]
    participant_ids: Annotated[
        list[UserId], Meta(max_length=MAX_LISTED, description="参与者；召开者自己总在其中")
    ] = []


class InviteIn(Struct, forbid_unknown_fields=True):
    participant_ids: Annotated[list[UserId], Meta(min_length=1, max_length=MAX_LISTED)]


def meeting_limits(rules: MeetingSettings) -> dict[str, Schema]:
    """``rules`` 里的上限，写进 OpenAPI。"""
    return {
        "title": {"maxLength": rules.max_title_chars},
        "participant_ids": {"maxItems": rules.max_participants},
    }


class ParticipantOut(Out):
    user_id: PersonId
    name: str = Field(description="他自己进过会议才有，之前为空")


class MeetingOut(Out):
    meeting_id: str
    title: str
    organizer_id: PersonId
    created_at: int
    ended_at: int | None
    seq: int = Field(description="最新一段转录的号")


class MeetingDetailOut(MeetingOut):
    participants: list[ParticipantOut]

    @classmethod
    def of_view(cls, view: MeetingView, shown: Mapping[int, PersonId]) -> Self:
        people = [
            ParticipantOut(user_id=shown[each.user_id], name=each.name)
            for each in view.participants
        ]
        return cls(**_meeting(view.meeting, shown), participants=people)


def _meeting(meeting: Meeting, shown: Mapping[int, PersonId]) -> dict[str, Any]:
    return {**asdict(meeting), "organizer_id": shown[meeting.organizer_id]}


class MeetingsOut(Out):
    items: list[MeetingOut]
    next_cursor: str | None


class SegmentOut(Out):
    seq: int
    sender_id: PersonId
    speaker: str
    text: str
    start_ms: int
    end_ms: int
    timestamp: int


class TranscriptOut(Out):
    items: list[SegmentOut]
    next_cursor: str | None


MEETING_ID_PATTERN: Final = "[0-9A-Z]{26}"
_MEETING_ID: Final = re.compile(MEETING_ID_PATTERN)
_SEQ: Final = re.compile(r"[0-9]{1,16}")


def meeting_endpoint(hub: MeetingHub) -> Endpoint:
    """畸形的 id 与不许的 Origin 在升级之前拒绝（404、403）；其余都升级后以关闭码说明。

    没有的会议与不该进的会议都是 4501：升级之前还不知道他是谁，不为陌生人查数据库，
    也不告诉他会议是否存在。
    """
    largest = hub.limits.line.largest_read_bytes

    async def endpoint(websocket: WebSocket, meeting_id: str) -> None:
        handshake = take_handshake(websocket, 0, hub.authenticator.proxies)
        if _MEETING_ID.fullmatch(meeting_id) is None:
            await turn_away(hub.admission, websocket, handshake, NOT_FOUND)
        elif not hub.origin_allowed(handshake):
            await turn_away(hub.admission, websocket, handshake, FOREIGN_ORIGIN)
        else:
            await hub.admission.pause(hub.upgrade_delay_s(handshake))
            await websocket.accept(handshake.accepted_subprotocol)
            last_seq = _last_seq(handshake)
            await serve(
                websocket,
                lambda driver: hub.accept(handshake, meeting_id, last_seq, driver),
                largest,
            )

    return endpoint


def _last_seq(handshake: Handshake) -> int:
    """没给或畸形的当作 0：大不了从头推一遍。"""
    given = next((value for name, value in handshake.fields() if name == "last_seq"), "")
    return int(given) if _SEQ.fullmatch(given) else 0


MeetingIdPath = Annotated[str, Path(pattern=f"^{MEETING_ID_PATTERN}$")]
MeetingCursor = Annotated[str | None, Query(pattern=f"^{MEETING_ID_PATTERN}$")]
SegmentCursor = Annotated[str, Query(pattern="^[0-9]{1,16}$", description="从这一段之后开始")]


def meeting_router(
    service: MeetingService,
    security: Security,
    *,
    quota: SendQuota,
    rules: MeetingSettings,
    people: People = INTEGERS,
) -> APIRouter:
    """``/meetings…``；前缀由调用者加。

    进会议的人结束时各得一条通知：在请他进来时就记在账上，结束总能结束。
    """
    router = contract_router(tags=["meetings"])
    limits = meeting_limits(rules)
    CurrentUser = Annotated[Principal, Depends(security.allowing("admin"))]  # noqa: N806 — 类型
    Person = Annotated[Principal, Depends(security.current_principal)]  # noqa: N806
    UserInPath = Annotated[Who, Depends(InPath(people))]  # noqa: N806

    async def detail(view: MeetingView) -> MeetingDetailOut:
        present = (each.user_id for each in view.participants)
        shown = await people.persons((view.meeting.organizer_id, *present))
        return MeetingDetailOut.of_view(view, shown)

    @router.post("/meetings", status_code=status.HTTP_201_CREATED, summary="召开会议")
    async def create(
        user: Person, body: Annotated[MeetingIn, Depends(JsonBody(MeetingIn, limits))]
    ) -> MeetingDetailOut:
        quota.charge_recipients(user, body.participant_ids)
        return await detail(await service.create(user, body.title, body.participant_ids))

    @router.get("/meetings", summary="我参加的会议，新的在前")
    async def page(
        user: Person,
        ended: bool | None = None,
        cursor: MeetingCursor = None,
        limit: Limit = 50,
    ) -> MeetingsOut:
        found = await service.page(user, ended=ended, cursor=cursor, limit=limit)
        shown = await people.persons(one.organizer_id for one in found.items)
        items = [MeetingOut(**_meeting(one, shown)) for one in found.items]
        return MeetingsOut(items=items, next_cursor=found.next_cursor)

    @router.get("/meetings/{meeting_id}", summary="一场会议（参与者、管理员）")
    async def get(meeting_id: MeetingIdPath, user: CurrentUser) -> MeetingDetailOut:
        return await detail(await service.get(meeting_id, user))

    @router.post("/meetings/{meeting_id}/participants", summary="邀请（召开者、管理员）")
    async def invite(
        meeting_id: MeetingIdPath,
        user: CurrentUser,
        body: Annotated[InviteIn, Depends(JsonBody(InviteIn, limits))],
    ) -> MeetingDetailOut:
        """已在其中的不变；会议已结束 409 ``meeting_ended``。"""
        quota.charge_recipients(user, body.participant_ids)
        return await detail(await service.invite(meeting_id, user, body.participant_ids))

    @router.delete(
        "/meetings/{meeting_id}/participants/{user_id}",
        status_code=status.HTTP_204_NO_CONTENT,
        summary="离开（本人），请人离开（召开者、管理员）",
    )
    async def leave(meeting_id: MeetingIdPath, who: UserInPath, user: CurrentUser) -> None:
        """此后他看不到这场会议，他的连接以 4501 关闭。召开者自己不能离开（403）。"""
        await service.leave(meeting_id, user, who.number)

    @router.post("/meetings/{meeting_id}/end", summary="结束（召开者、管理员）")
    async def end(meeting_id: MeetingIdPath, user: CurrentUser) -> MeetingDetailOut:
        """重复结束无害；每个参与者得到恰好一条通知。"""
        return await detail(await service.end(meeting_id, user))

    @router.get("/meetings/{meeting_id}/transcript", summary="转录，按号升序")
    async def transcript(
        meeting_id: MeetingIdPath,
        user: CurrentUser,
        cursor: SegmentCursor = "0",
        limit: Limit = 100,
    ) -> TranscriptOut:
        segments = await service.transcript(meeting_id, user, int(cursor), limit + 1)
        found = Page.of(segments, limit, lambda one: str(one.seq))
        shown = await people.persons(one.sender_id for one in found.items)
        items = [
            SegmentOut(**{**asdict(one), "sender_id": shown[one.sender_id]}) for one in found.items
        ]
        return TranscriptOut(items=items, next_cursor=found.next_cursor)

    return router


def meeting_socket_router(hub: MeetingHub) -> APIRouter:
    """``/ws/meeting/{meeting_id}``：普通 ASGI，所以只在有 FastAPI 的角色（all、api）里。"""
    router = APIRouter()
    router.add_api_websocket_route(
        "/ws/meeting/{meeting_id}", meeting_endpoint(hub), name="meeting"
    )
    return router
