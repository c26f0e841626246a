"""会议与它的参与者。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, Select, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ..model import Meeting, MeetingPosition, Participant
from .database import Database
from .id_list import among
from .rows import MeetingPage
from .tables import meeting_participants, meetings

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
    "INSERT INTO meeting_participants (meeting_id, user_id, name, invited_at)"
    " VALUES (:meeting_id, :user_id, :name, :invited_at)"
    " ON CONFLICT (meeting_id, user_id) DO NOTHING"
)


class MeetingRepository:
    """收 ``connection`` 的方法在调用者的事务里执行。"""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, connection: AsyncConnection, meeting: Meeting) -> None:
        values = {
            "meeting_id": meeting.meeting_id,
            "title": meeting.title,
            "organizer_id": meeting.organizer_id,
            "created_at": meeting.created_at,
            "last_seq": meeting.seq,
        }
        await connection.execute(insert(meetings), values)

    async def lock(self, connection: AsyncConnection, meeting_id: str) -> Meeting | None:
        """读出并锁住：到提交为止，邀请与结束一个接一个（SQLite 的写事务本就如此）。"""
        statement = _SELECT.where(_m.meeting_id == meeting_id).with_for_update()
        row = (await connection.execute(statement)).one_or_none()
        return None if row is None else _meeting(row)

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
        return None if row is None else _meeting(row)

    async def get(self, meeting_id: str) -> Meeting | None:
        statement = _SELECT.where(_m.meeting_id == meeting_id)
        async with self._database.connect() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else _meeting(row)

    async def participants(self, meeting_id: str) -> list[Participant]:
        """按 user_id 升序。"""
        statement = (
            select(_p.user_id, _p.name).where(_p.meeting_id == meeting_id).order_by(_p.user_id)
        )
        async with self._database.connect() as connection:
            return [Participant(*row) for row in await connection.execute(statement)]

    async def is_participant(self, meeting_id: str, user_id: int) -> bool:
        statement = select(func.count()).where(_p.meeting_id == meeting_id, _p.user_id == user_id)
        async with self._database.connect() as connection:
            return bool(await connection.scalar(statement))

    async def rename(self, meeting_id: str, participant: Participant) -> None:
        """记下他现在的名字；不是参与者则无事发生。"""
        statement = (
            update(meeting_participants)
            .where(_p.meeting_id == meeting_id, _p.user_id == participant.user_id)
            .values(name=participant.name)
        )
        async with self._database.transaction() as connection:
            await connection.execute(statement)

    async def page(
        self, user_id: int, *, ended: bool | None, cursor: str | None, limit: int
    ) -> MeetingPage:
        """他参加的会议，新的在前；``ended`` 为 None 则不分是否已结束。"""
        statement = _narrowed(
            _SELECT.join(meeting_participants, _p.meeting_id == _m.meeting_id).where(
                _p.user_id == user_id
            ),
            ended,
            cursor,
        )
        statement = statement.order_by(_p.meeting_id.desc()).limit(limit + 1)
        async with self._database.connect() as connection:
            items = [_meeting(row) for row in await connection.execute(statement)]
        more = len(items) > limit
        return MeetingPage(items[:limit], items[limit - 1].meeting_id if more else None)

    async def positions(self, meeting_ids: Sequence[str]) -> dict[str, MeetingPosition]:
        """各会议的记录走到了哪里；不存在的略去。"""
        statement = select(_m.meeting_id, _m.last_seq, _m.ended_at).where(
            among(self._database, _m.meeting_id, meeting_ids)
        )
        async with self._database.connect() as connection:
            rows = await connection.execute(statement)
            return {row.meeting_id: MeetingPosition(row.last_seq, row.ended_at) for row in rows}


def _narrowed(
    statement: Select[*tuple[Any, ...]], ended: bool | None, cursor: str | None
) -> Select[*tuple[Any, ...]]:
    if ended is not None:
        statement = statement.where(_m.ended_at.is_not(None) if ended else _m.ended_at.is_(None))
    return statement if cursor is None else statement.where(_p.meeting_id < cursor)


def _meeting(row: Row[*tuple[Any, ...]]) -> Meeting:
    return Meeting(*row)
