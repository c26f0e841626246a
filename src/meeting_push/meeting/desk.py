"""会议 WebSocket 的记录台：实现 ``contracts.MeetingDesk``。"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from ..clock import Clock, now_ms
from ..errors import ForbiddenError
from ..model import (
    RECORDER_ROLE,
    MeetingPosition,
    MeetingView,
    Participant,
    Principal,
    Segment,
    Utterance,
)
from ..storage.meetings import MeetingRepository
from ..storage.transcripts import TranscriptRepository

#: 同时占用的数据库连接；池是与用户消息共用的，会议再忙也得给它留着（ISO-1）。
MAX_STATEMENTS: Final = 4


class MeetingDesk:
    def __init__(
        self,
        meetings: MeetingRepository,
        transcripts: TranscriptRepository,
        clock: Clock = now_ms,
    ) -> None:
        self._meetings = meetings
        self._transcripts = transcripts
        self._clock = clock
        self._turns = asyncio.Semaphore(MAX_STATEMENTS)

    async def admit(self, meeting_id: str, principal: Principal) -> MeetingView:
        async with self._turns:
            meeting = await self._meetings.get(meeting_id)
            people = await self._meetings.participants(meeting_id)
        known = next((p for p in people if p.user_id == principal.user_id), None)
        if meeting is None or (known is None and principal.role != RECORDER_ROLE):
            raise ForbiddenError("not a participant of this meeting")
        if known is not None and principal.name and principal.name != known.name:
            people = await self._rename(meeting_id, people, principal)
        return MeetingView(meeting, tuple(people))

    async def _rename(
        self, meeting_id: str, people: Sequence[Participant], principal: Principal
    ) -> list[Participant]:
        """令牌里的名字比记下的新。"""
        renamed = Participant(principal.user_id, principal.name)
        async with self._turns:
            await self._meetings.rename(meeting_id, renamed)
        return [renamed if p.user_id == renamed.user_id else p for p in people]

    async def append(self, meeting_id: str, utterances: Sequence[Utterance]) -> list[Segment]:
        async with self._turns:
            return await self._transcripts.append(meeting_id, utterances, self._clock())

    async def read(self, meeting_id: str, after_seq: int, limit: int) -> list[Segment]:
        async with self._turns:
            return await self._transcripts.page(meeting_id, after_seq, limit)

    async def member_ids(self, meeting_id: str) -> set[int]:
        async with self._turns:
            return {p.user_id for p in await self._meetings.participants(meeting_id)}

    async def positions(self, meeting_ids: Sequence[str]) -> dict[str, MeetingPosition]:
        async with self._turns:
            return await self._meetings.positions(meeting_ids)
