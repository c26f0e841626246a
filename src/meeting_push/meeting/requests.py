"""客户端请求的去处：会话给出的命令在这里变成动作；段由写者存进记录，再发布给各节点。

先存后发：发布出去的都已有号、已提交。写一批时到来的攒成下一批，所以一场会议同时至多一个事务。
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Final, Protocol

from msgspec import Struct

from ..clock import Clock
from ..errors import (
    InvalidInputError,
    MeetingPushError,
    OutcomeUnknownError,
    RateLimitedError,
)
from ..logs import RepeatedWarning, logger
from ..meeting_model import Segment, Utterance
from ..model import RECORDER_ROLE, Principal
from ..protocol import commands
from ..protocol.codes import CloseCode
from ..protocol.commands import RequestIdValue
from ..protocol.frames import RefreshTokenFrame, encode
from ..redis.meeting_bus import MeetingBus
from ..supervision import Tasks
from ..websocket.handshake import Authenticator
from ..websocket.requests import LineRequests
from .connection import MeetingConnection, MeetingCounters
from .frames import SegmentFrame, SegmentIn, SegmentResult
from .room import frames_of
from .service import MeetingDesk

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
        try:
            frames = await frames_of(self._desk, segments)
            await self._bus.publish(meeting_id, frames)
        except MeetingPushError as error:
            self._unpublished.say(code=error.code, cause=error.cause, meeting_id=meeting_id)
            self._on_unpublished(meeting_id, segments[-1].seq)


def _one_is_spoiled(error: Exception) -> bool:
    """多半只是其中一段存不下；会议结束了、数据库不在则与哪一段无关。"""
    return isinstance(error, InvalidInputError) or not isinstance(error, MeetingPushError)


#: 一条连接还没有回答的请求（待存的段、换令牌）；再多则回 ``busy``。
MAX_REQUESTS: Final = 64


def _speaker(principal: Principal, segment: SegmentIn) -> str:
    """说话的人：识别器听得出几个人，由它说；别人只能是自己（A17：转录里不能冒名）。"""
    named = segment.speaker if principal.role == RECORDER_ROLE else None
    return named or principal.name or str(principal.person)


class Requests(LineRequests[MeetingConnection]):
    _counters: MeetingCounters

    def __init__(
        self,
        scribes: Scribes,
        bus: MeetingBus,
        authenticator: Authenticator,
        counters: MeetingCounters,
        tasks: Tasks,
        reschedule: Callable[[MeetingConnection], None],
        clock: Clock,
    ) -> None:
        super().__init__(authenticator, counters, tasks, clock, reschedule)
        self._scribes = scribes
        self._bus = bus

    def handle(self, connection: MeetingConnection, command: commands.Command) -> None:
        match command:
            case SegmentIn():
                self._speak(connection, command)
            case commands.Beat():
                self._counters.heartbeats += 1
                connection.send(command.frame, self._clock())
            case RefreshTokenFrame():
                self._refresh(connection, command)
            case _:
                super().handle(connection, command)

    # ── 转录 ──────────────────────────────────────────────────────────────

    def _speak(self, connection: MeetingConnection, segment: SegmentIn) -> None:
        if not self._has_room(connection, segment.request_id):
            return
        principal = connection.principal
        utterance = Utterance(
            sender_id=principal.user_id,
            speaker=_speaker(principal, segment),
            text=segment.text,
            start_ms=segment.start_ms,
            end_ms=segment.end_ms,
        )
        if segment.interim:
            work = self._publish_interim(connection, utterance, segment.request_id)
            self._later(connection, work, segment.request_id)
        else:
            connection.requests += 1  # Scribes 写完后由 stored / not_stored 减去
            self._scribes.write(
                connection.meeting_id, Note(connection, utterance, segment.request_id)
            )

    async def _publish_interim(
        self, connection: MeetingConnection, utterance: Utterance, request_id: RequestIdValue
    ) -> None:
        fields = {**asdict(utterance), "sender_id": connection.principal.person}
        frame = SegmentFrame(seq=None, interim=True, timestamp=self._clock(), **fields)
        await self._bus.publish(connection.meeting_id, [encode(frame)])
        self._counters.interims_published += 1
        if request_id is not None:
            connection.answer(SegmentResult(seq=None, request_id=request_id))

    # ── 令牌 ──────────────────────────────────────────────────────────────

    def _refresh(self, connection: MeetingConnection, command: RefreshTokenFrame) -> None:
        if self._has_room(connection, command.request_id):
            self._later(connection, self._exchange(connection, command), command.request_id)

    async def _exchange(self, connection: MeetingConnection, command: RefreshTokenFrame) -> None:
        principal = connection.principal
        fresh = await self._verified(connection, command.token, principal.user_id)
        if fresh is None:
            return
        if fresh.role != principal.role:  # 许可是按角色给的
            connection.close(CloseCode.FORBIDDEN)
            return
        # 名字是在场登记的一部分，这条连接上不变
        self._renewed(connection, replace(fresh, name=principal.name), command.request_id)

    # ── 后台 ──────────────────────────────────────────────────────────────

    def _has_room(self, connection: MeetingConnection, request_id: RequestIdValue) -> bool:
        if connection.requests < MAX_REQUESTS:
            return True
        self._counters.drops["busy"] += 1
        busy = RateLimitedError("too many unanswered requests")
        super()._failed(connection, busy, request_id)
        return False

    def _failed(
        self, connection: MeetingConnection, error: MeetingPushError, request_id: RequestIdValue
    ) -> None:
        self._counters.drops[f"request_{error.code}"] += 1
        super()._failed(connection, error, request_id)
