"""会议的 REST 里来往的 JSON。"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct
from pydantic import BaseModel, Field

from ..meeting.service import MeetingRules
from ..model import Meeting, MeetingView, Segment
from ..protocol.frames import UserId
from ..storage.rows import MeetingPage
from .json_body import Schema

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


def meeting_limits(rules: MeetingRules) -> dict[str, Schema]:
    """``rules`` 里的上限，写进 OpenAPI。"""
    return {
        "title": {"maxLength": rules.max_title_chars},
        "participant_ids": {"maxItems": rules.max_participants},
    }


class ParticipantOut(BaseModel):
    user_id: int
    name: str = Field(description="他自己进过会议才有，之前为空")


class MeetingOut(BaseModel):
    meeting_id: str
    title: str
    organizer_id: int
    created_at: int
    ended_at: int | None
    seq: int = Field(description="最新一段转录的号")

    @classmethod
    def of(cls, meeting: Meeting) -> MeetingOut:
        return cls(
            meeting_id=meeting.meeting_id,
            title=meeting.title,
            organizer_id=meeting.organizer_id,
            created_at=meeting.created_at,
            ended_at=meeting.ended_at,
            seq=meeting.seq,
        )


class MeetingDetailOut(MeetingOut):
    participants: list[ParticipantOut]

    @classmethod
    def of_view(cls, view: MeetingView) -> MeetingDetailOut:
        people = [ParticipantOut(user_id=p.user_id, name=p.name) for p in view.participants]
        return cls(**MeetingOut.of(view.meeting).model_dump(), participants=people)


class MeetingsOut(BaseModel):
    items: list[MeetingOut]
    next_cursor: str | None

    @classmethod
    def of(cls, page: MeetingPage) -> MeetingsOut:
        return cls(
            items=[MeetingOut.of(meeting) for meeting in page.items],
            next_cursor=page.next_cursor,
        )


class SegmentOut(BaseModel):
    seq: int
    sender_id: int
    speaker: str
    text: str
    start_ms: int
    end_ms: int
    timestamp: int


class TranscriptOut(BaseModel):
    items: list[SegmentOut]
    next_cursor: str | None

    @classmethod
    def of(cls, segments: list[Segment], limit: int) -> TranscriptOut:
        """``segments`` 比 ``limit`` 多一段即还有下一页。"""
        page = segments[:limit]
        return cls(
            items=[
                SegmentOut(
                    seq=s.seq,
                    sender_id=s.sender_id,
                    speaker=s.speaker,
                    text=s.text,
                    start_ms=s.start_ms,
                    end_ms=s.end_ms,
                    timestamp=s.timestamp,
                )
                for s in page
            ],
            next_cursor=str(page[-1].seq) if len(segments) > limit else None,
        )
