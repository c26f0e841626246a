"""会议与它的参与者；转录：号在这里分配，从 1 起连续无洞。"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import Select, delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ..errors import MeetingEndedError
from ..meeting_model import (
    Meeting,
    MeetingPosition,
    Participant,
    Segment,
    Utterance,
)
from .database import Repository
from .id_list import among
from .rows import Page
from .tables import meeting_participants, meetings, transcript_segments

_m: Final = meetings.c
_p: Final = meeting_participants.c
_COLUMNS: Final = (
    _m.meeting_id,
    _m.title,
    _m.organizer_id,
    _m.created_at,
    _m.ended_at,
    _m.last_seq,
)
_SELECT: Final = select(*_COLUMNS)
_JOIN: Final = text(
    "INSERT INTO mp_meeting_participants (meeting_id, user_id, name, invited_at)"
    " VALUES (:meeting_id, :user_id, :name, :invited_at)"
    " ON CONFLICT (meeting_id, user_id) DO NOTHING"
)


class MeetingRepository(Repository):
    async def insert(self, connection: AsyncConnection, meeting: Meeting) -> None:
        values = asdict(meeting)
        await connection.execute(insert(meetings), {"last_seq": values.pop("seq"), **values})

    async def lock(self, connection: AsyncConnection, meeting_id: str) -> Meeting | None:
        """读出并锁住：到提交为止，邀请与结束一个接一个（SQLite 的写事务本就如此）。"""
        statement = _SELECT.where(_m.meeting_id == meeting_id).with_for_update()
        row = (await connection.execute(statement)).one_or_none()
        return None if row is None else Meeting(*row)

    async def add_participants(
        self,
        connection: AsyncConnection,
        meeting_id: str,
        participants: Sequence[Participant],
        now: int,
    ) -> None:
        """已在其中的不变。"""
        rows = [
            {"meeting_id": meeting_id, "user_id": p.user_id, "name": p.name, "invited_at": now}
            for p in participants
        ]
        await connection.execute(_JOIN, rows)

    async def remove_participant(
        self, connection: AsyncConnection, meeting_id: str, user_id: int
    ) -> None:
        """本不在其中则无事发生。"""
        statement = delete(meeting_participants).where(
            _p.meeting_id == meeting_id, _p.user_id == user_id
        )
        await connection.execute(statement)

    async def participant_ids(self, connection: AsyncConnection, meeting_id: str) -> list[int]:
        statement = select(_p.user_id).where(_p.meeting_id == meeting_id).order_by(_p.user_id)
        return list(await connection.scalars(statement))

    async def end(self, connection: AsyncConnection, meeting_id: str, now: int) -> Meeting | None:
        """记下结束，返回结束时的会议；早已结束（或不存在）则 None，什么也没改。"""
        statement = (
            update(meetings)
            .where(_m.meeting_id == meeting_id, _m.ended_at.is_(None))
            .values(ended_at=now)
            .returning(*_COLUMNS)
        )
        row = (await connection.execute(statement)).one_or_none()
        return None if row is None else Meeting(*row)

    async def get(self, meeting_id: str) -> Meeting | None:
        statement = _SELECT.where(_m.meeting_id == meeting_id)
        row = await self._database.row(statement)
        return None if row is None else Meeting(*row)

    async def participants(self, meeting_id: str) -> list[Participant]:
        """按 user_id 升序。"""
        statement = (
            select(_p.user_id, _p.name).where(_p.meeting_id == meeting_id).order_by(_p.user_id)
        )
        return [Participant(*row) for row in await self._database.rows(statement)]

    async def rename(self, meeting_id: str, participant: Participant) -> None:
        """记下他现在的名字；不是参与者则无事发生。"""
        statement = (
            update(meeting_participants)
            .where(_p.meeting_id == meeting_id, _p.user_id == participant.user_id)
            .values(name=participant.name)
        )
        await self._database.change(statement)

    async def page(
        self, user_id: int, *, ended: bool | None, cursor: str | None, limit: int
    ) -> Page[Meeting, str]:
        """他参加的会议，新的在前；``ended`` 为 None 则不分是否已结束。"""
        statement = _narrowed(
            _SELECT.join(meeting_participants, _p.meeting_id == _m.meeting_id).where(
                _p.user_id == user_id
            ),
            ended,
            cursor,
        )
        statement = statement.order_by(_p.meeting_id.desc()).limit(limit + 1)
        items = [Meeting(*row) for row in await self._database.rows(statement)]
        return Page.of(items, limit, lambda meeting: meeting.meeting_id)

    async def positions(self, meeting_ids: Sequence[str]) -> dict[str, MeetingPosition]:
        """各会议的记录走到了哪里；不存在的略去。"""
        statement = select(_m.meeting_id, _m.last_seq, _m.ended_at).where(
            among(self._database, _m.meeting_id, meeting_ids)
        )
        rows = await self._database.rows(statement)
        return {row.meeting_id: MeetingPosition(row.last_seq, row.ended_at) for row in rows}


def _narrowed(
    statement: Select[*tuple[Any, ...]], ended: bool | None, cursor: str | None
) -> Select[*tuple[Any, ...]]:
    if ended is not None:
        statement = statement.where(_m.ended_at.is_not(None) if ended else _m.ended_at.is_(None))
    return statement if cursor is None else statement.where(_p.meeting_id < cursor)


# ── 转录 ─────────────────────────────────────────────────────────────────────

_s: Final = transcript_segments.c
_SEGMENTS: Final = select(
    _s.seq, _s.sender_id, _s.speaker, _s.text, _s.start_ms, _s.end_ms, _s.created_at
)


class TranscriptRepository(Repository):
    async def append(
        self, meeting_id: str, utterances: Sequence[Utterance], now: int
    ) -> list[Segment]:
        """一个事务存下若干段，次序不变，号相连。

        取号即锁住会议的那一行直到提交：号的次序就是提交的次序，回滚也不留洞；
        谁见到了 n 号，小于 n 的就都已可读。

        :raises MeetingEndedError: 会议已结束（或不存在）；什么也没有保存
        """
        take = (
            update(meetings)
            .where(meetings.c.meeting_id == meeting_id, meetings.c.ended_at.is_(None))
            .values(last_seq=meetings.c.last_seq + len(utterances))
            .returning(meetings.c.last_seq)
        )
        async with self._database.transaction() as connection:
            last = await connection.scalar(take)
            if last is None:
                raise MeetingEndedError("the meeting has ended")
            first = last - len(utterances) + 1
            segments = [
                Segment(seq=seq, timestamp=now, **asdict(each))
                for seq, each in enumerate(utterances, first)
            ]
            await connection.execute(
                insert(transcript_segments), [_values(meeting_id, s) for s in segments]
            )
        return segments

    async def page(self, meeting_id: str, after_seq: int, limit: int) -> list[Segment]:
        """号大于 ``after_seq`` 的前 ``limit`` 段，按号升序。"""
        statement = (
            _SEGMENTS.where(_s.meeting_id == meeting_id, _s.seq > after_seq)
            .order_by(_s.seq)
            .limit(limit)
        )
        return [Segment(*row) for row in await self._database.rows(statement)]


def _values(meeting_id: str, segment: Segment) -> dict[str, object]:
    values = asdict(segment)
    return {"meeting_id": meeting_id, "created_at": values.pop("timestamp"), **values}
