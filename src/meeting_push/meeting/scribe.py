"""写者：把最终的段存进记录，再发布给各节点。

先存后发：发布出去的都已有号、已提交。写一批时到来的攒成下一批，所以一场会议同时至多一个事务。
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from loguru import logger
from msgspec import Struct

from ..contracts import MeetingDesk
from ..errors import InvalidInputError, MeetingPushError, OutcomeUnknownError
from ..model import Segment, Utterance
from ..protocol.commands import RequestIdValue
from ..protocol.frames import encode
from ..redis.meeting_bus import MeetingBus
from ..repeated_warning import RepeatedWarning
from ..websocket.tasks import Tasks
from .frames import SegmentFrame
from .statistics import MeetingCounters

MAX_BATCH: Final = 64


class Author(Protocol):
    """段的来处，等着结果；都是同步的，不抛出。"""

    def stored(self, seq: int, request_id: RequestIdValue) -> None: ...

    def not_stored(self, error: MeetingPushError, request_id: RequestIdValue) -> None: ...


class Note(Struct, frozen=True):
    author: Author
    utterance: Utterance
    request_id: RequestIdValue


class Scribes:
    """各会议的待写队列；说完就走的人，话也会存下。

    存了而没能发布的，调用 ``on_unpublished(meeting_id, seq)``：本节点自己去记录里读，别的
    节点靠定期核对。
    """

    def __init__(
        self,
        desk: MeetingDesk,
        bus: MeetingBus,
        counters: MeetingCounters,
        on_unpublished: Callable[[str, int], None],
    ) -> None:
        self._desk = desk
        self._bus = bus
        self._counters = counters
        self._on_unpublished = on_unpublished
        self._unpublished = RepeatedWarning("segments_unpublished")
        self._tasks = Tasks()
        self._waiting: dict[str, list[Note]] = {}

    def write(self, meeting_id: str, note: Note) -> None:
        """排队；同一场会议里先来的先得号。上限由调用者按连接把着。"""
        waiting = self._waiting.get(meeting_id)
        if waiting is not None:
            waiting.append(note)
            return
        self._waiting[meeting_id] = [note]
        self._tasks.spawn(self._run(meeting_id), "meeting_scribe")

    async def close(self, timeout_s: float) -> None:
        """等已收下的写完，至多 ``timeout_s``。"""
        await self._tasks.wait(timeout_s)
        await self._tasks.close()

    async def _run(self, meeting_id: str) -> None:
        waiting = self._waiting[meeting_id]
        while waiting:
            batch = waiting[:MAX_BATCH]
            del waiting[:MAX_BATCH]
            await self._store(meeting_id, batch)
        del self._waiting[meeting_id]

    async def _store(self, meeting_id: str, batch: Sequence[Note]) -> None:
        try:
            segments = await self._desk.append(meeting_id, [note.utterance for note in batch])
        except Exception as error:  # noqa: BLE001 — 这一批没存下不能连累后面的
            if len(batch) > 1 and _one_is_spoiled(error):
                middle = len(batch) // 2  # 抛出即什么都没有写：对半再来，次序不变
                await self._store(meeting_id, batch[:middle])
                await self._store(meeting_id, batch[middle:])
                return
            self._fail(meeting_id, batch, error)
            return
        self._counters.segments_stored += len(segments)
        for note, segment in zip(batch, segments, strict=True):
            note.author.stored(segment.seq, note.request_id)
        await self._publish(meeting_id, segments)

    def _fail(self, meeting_id: str, batch: Sequence[Note], error: Exception) -> None:
        if not isinstance(error, MeetingPushError):
            logger.bind(meeting_id=meeting_id).opt(exception=error).error("meeting_scribe_broken")
            error = MeetingPushError("something went wrong on our side")
        if isinstance(error, OutcomeUnknownError):
            error = error.without_key()  # 一段没有键：原样再来会存两份
        self._counters.drops[f"not_stored_{error.code}"] += len(batch)
        for note in batch:
            note.author.not_stored(error, note.request_id)

    async def _publish(self, meeting_id: str, segments: Sequence[Segment]) -> None:
        frames = [encode(SegmentFrame.of(segment)) for segment in segments]
        try:
            await self._bus.publish(meeting_id, frames)
        except MeetingPushError as error:
            self._unpublished.say(code=error.code, cause=error.cause, meeting_id=meeting_id)
            self._on_unpublished(meeting_id, segments[-1].seq)


def _one_is_spoiled(error: Exception) -> bool:
    """多半只是其中一段存不下；会议结束了、数据库不在则与哪一段无关。"""
    return isinstance(error, InvalidInputError) or not isinstance(error, MeetingPushError)
