"""会议的 REST 里来往的 JSON。"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from ..model import Meeting, MeetingView, Segment
from ..storage.rows import MeetingPage


class MeetingIn(BaseModel):
    """要召开的会议；上下限由服务检查（413/422）。"""

    model_config = ConfigDict(extra="forbid")

    title: StrictStr
    participant_ids: list[StrictInt] = Field([], description="参与者；召开者自己总在其中")


class InviteIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    participant_ids: list[StrictInt] = Field(min_length=1)


class ParticipantOut(BaseModel):
    user_id: int
    name: str = Field(description="可能为空：内嵌的应用里还没有连上过的人")


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
