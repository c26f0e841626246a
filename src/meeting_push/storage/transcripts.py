"""转录的记录：号在这里分配，从 1 起连续无洞。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, insert, select, update

from ..errors import MeetingEndedError
from ..model import Segment, Utterance
from .database import Database
from .tables import meetings, transcript_segments

_s: Final = transcript_segments.c
_SELECT: Final = select(
    _s.seq, _s.sender_id, _s.speaker, _s.text, _s.start_ms, _s.end_ms, _s.created_at
)


class TranscriptRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

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
            segments = [_stored(u, seq, now) for seq, u in enumerate(utterances, first)]
            await connection.execute(
                insert(transcript_segments), [_values(meeting_id, s) for s in segments]
            )
        return segments

    async def page(self, meeting_id: str, after_seq: int, limit: int) -> list[Segment]:
        """号大于 ``after_seq`` 的前 ``limit`` 段，按号升序。"""
        statement = (
            _SELECT.where(_s.meeting_id == meeting_id, _s.seq > after_seq)
            .order_by(_s.seq)
            .limit(limit)
        )
        async with self._database.connect() as connection:
            return [_segment(row) for row in await connection.execute(statement)]


def _stored(utterance: Utterance, seq: int, now: int) -> Segment:
    return Segment(
        seq=seq,
        sender_id=utterance.sender_id,
        speaker=utterance.speaker,
        text=utterance.text,
        start_ms=utterance.start_ms,
        end_ms=utterance.end_ms,
        timestamp=now,
    )


def _values(meeting_id: str, segment: Segment) -> dict[str, object]:
    return {
        "meeting_id": meeting_id,
        "seq": segment.seq,
        "sender_id": segment.sender_id,
        "speaker": segment.speaker,
        "text": segment.text,
        "start_ms": segment.start_ms,
        "end_ms": segment.end_ms,
        "created_at": segment.timestamp,
    }


def _segment(row: Row[*tuple[Any, ...]]) -> Segment:
    return Segment(*row)
