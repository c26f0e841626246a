"""客户端请求的去处：会话给出的命令在这里变成对各站的调用。"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ..contracts import AckSink, PresenceSink, PresenceWatches, ReadSink, RetrySink
from ..errors import BadFrameError, InvalidInputError, MeetingPushError, UnavailableError
from ..model import FailureCause, Principal
from ..people.people import INTEGERS, People
from ..protocol import commands
from ..protocol.codes import cause_of_leaving
from ..protocol.commands import RequestIdValue
from ..protocol.frames import (
    AckResult,
    ErrorFrame,
    OpsUnwatchFrame,
    OpsWatchFrame,
    OpsWatchResult,
    ReadFrame,
    ReadSync,
    RefreshTokenFrame,
    StatusFrame,
    StatusResult,
    UnwatchFrame,
    WatchFrame,
    WatchResult,
)
from ..supervision import Tasks
from .handshake import (
    MAX_DEVICE_INFO_CHARS,
    Authenticator,
    clean,
    close_code_for,
    is_about_the_token,
)
from .line import UserConnection
from .line_host import LineCounters
from .lines import EdgeCounters, SomeLine
from .ops_feed import OpsFeed

Found = TypeVar("Found")

#: 一条连接同时进行的异步请求（核实确认、已读、换令牌）；再多则回 ``busy``。
MAX_REQUESTS = 8


@dataclass(frozen=True, slots=True)
class Sinks:
    """客户端的确认、在线状态、已读、关注与等不到的确认各自去哪里。"""

    acks: AckSink
    presence: PresenceSink
    reads: ReadSink
    watches: PresenceWatches
    retries: RetrySink
    people: People = INTEGERS
    ops: OpsFeed = field(default_factory=OpsFeed)


class LineRequests(Generic[SomeLine]):
    """每种连接都有的命令，与在后台做的请求；``handle`` 同步、不抛出。"""

    def __init__(
        self,
        authenticator: Authenticator,
        counters: LineCounters,
        tasks: Tasks,
        clock: Callable[[], int],
        reschedule: Callable[[SomeLine], None],
    ) -> None:
        self._authenticator = authenticator
        self._counters = counters
        self._tasks = tasks
        self._clock = clock
        self._reschedule = reschedule

    def handle(self, connection: SomeLine, command: commands.Command) -> None:
        match command:
            case commands.Reply():
                connection.send(command.frame, self._clock())
            case commands.Refused():
                self._counters.bad_frames += 1
                connection.send(command.frame, self._clock())
            case commands.Close():
                if command.frame is None:
                    connection.close(command.code)
                else:
                    self._counters.bad_frames += 1
                    connection.send(command.frame, self._clock())
                    connection.expel(command.code)
            case _:
                raise AssertionError(f"unknown command {type(command).__name__}")

    async def _verified(self, connection: SomeLine, token: str, user_id: int) -> Principal | None:
        """换来的令牌说的是谁；不是他的、不能用的，以相应的码关闭连接。"""
        try:
            return await self._authenticator.refresh(token, user_id, connection.ip_address)
        except MeetingPushError as error:
            if not is_about_the_token(error):
                raise
            connection.close(close_code_for(error))
            return None

    def _renewed(
        self, connection: SomeLine, principal: Principal, request_id: RequestIdValue
    ) -> None:
        answer = connection.session.token_refreshed(principal, request_id)
        self._reschedule(connection)
        self.handle(connection, answer)

    def _later(
        self,
        connection: SomeLine,
        work: Coroutine[object, object, None],
        request_id: RequestIdValue,
    ) -> None:
        connection.requests += 1
        self._tasks.spawn(self._run(connection, work, request_id), "client_request")

    async def _run(
        self,
        connection: SomeLine,
        work: Coroutine[object, object, None],
        request_id: RequestIdValue,
    ) -> None:
        try:
            await work
        except MeetingPushError as error:
            self._failed(connection, error, request_id)
        finally:
            connection.requests -= 1

    def _failed(
        self, connection: SomeLine, error: MeetingPushError, request_id: RequestIdValue
    ) -> None:
        """我们这边不行的（依赖不在）不算他的。"""
        frame = ErrorFrame.of(error, request_id)
        if isinstance(error, UnavailableError):
            connection.answer(frame)
        else:
            self.handle(connection, connection.session.fail(frame, self._clock()))


class ClientRequests(LineRequests[UserConnection]):
    """要等待的（核实、已读、换令牌）成为有界的后台任务。"""

    _counters: EdgeCounters

    def __init__(
        self,
        sinks: Sinks,
        authenticator: Authenticator,
        counters: EdgeCounters,
        tasks: Tasks,
        clock: Callable[[], int],
        reschedule: Callable[[UserConnection], None],
    ) -> None:
        super().__init__(authenticator, counters, tasks, clock, reschedule)
        self._sinks = sinks

    def handle(self, connection: UserConnection, command: commands.Command) -> None:
        match command:
            case commands.Acked():
                self._acked(connection, command)
            case commands.Beat():
                self._beat(connection, command)
            case StatusFrame():
                self._change_status(connection, command)
            case ReadFrame():
                self._later(connection, self._mark_read(connection, command), command.request_id)
            case RefreshTokenFrame():
                self._later(connection, self._refresh(connection, command), command.request_id)
            case WatchFrame() | UnwatchFrame():
                self._watching(connection, command)
            case OpsWatchFrame() | OpsUnwatchFrame():
                self._watch_ops(connection, command)
            case commands.Unanswered():
                self._retry(connection, command)
            case _:
                super().handle(connection, command)

    def _beat(self, connection: UserConnection, command: commands.Beat) -> None:
        now = self._clock()
        self._counters.heartbeats += 1
        self._sinks.presence.heartbeat(connection.user_id, connection.connection_id, now)
        connection.send(command.frame, now)

    def _acked(self, connection: UserConnection, command: commands.Acked) -> None:
        if command.acks:
            self._counters.acks += len(command.acks)
            self._sinks.acks.record(connection.user_id, command.acks)
        if command.unverified:
            self._later(connection, self._confirm(connection, command), command.request_id)
        elif command.request_id is not None:
            result = AckResult(
                accepted=len(command.acks), unknown=(), request_id=command.request_id
            )
            connection.answer(result)

    async def _confirm(self, connection: UserConnection, command: commands.Acked) -> None:
        now = self._clock()
        outcome = await self._sinks.acks.confirm(connection.user_id, command.unverified, now)
        self._counters.acks += outcome.accepted
        if command.request_id is not None:
            result = AckResult(
                accepted=len(command.acks) + outcome.accepted,
                unknown=outcome.unknown,
                request_id=command.request_id,
            )
            connection.answer(result)

    def _retry(self, connection: UserConnection, command: commands.Unanswered) -> None:
        def settle(message_id: str, attempt: int | None) -> None:
            connection.session.unacked.late.settle(message_id, attempt, self._clock())

        def why() -> FailureCause:
            return _why_unanswered(connection, self._clock())

        self._sinks.retries.claim(connection.user_id, command.overdue, settle, why)

    def _change_status(self, connection: UserConnection, command: StatusFrame) -> None:
        info = command.device_info
        if info is not None:
            info = clean(info, MAX_DEVICE_INFO_CHARS)
        connection.change_status(command.status, info)
        self._sinks.presence.status_changed(
            connection.user_id, connection.connection_id, command.status, info
        )
        if command.request_id is not None:
            result = StatusResult(status=command.status, request_id=command.request_id)
            connection.answer(result)

    def _watching(self, connection: UserConnection, command: WatchFrame | UnwatchFrame) -> None:
        work = self._watch if isinstance(command, WatchFrame) else self._unwatch
        self._later(connection, work(connection, command), command.request_id)

    async def _watch(self, connection: UserConnection, command: WatchFrame | UnwatchFrame) -> None:
        people, principal = self._sinks.people, connection.principal
        bringer = None if principal is None else people.bringer(principal)
        wanted = await _read(people.watched(command.user_ids, bringer))
        if connection.closing_since is None:  # 已走的不登记：没有人再来注销它
            watching = await self._sinks.watches.watch(connection, wanted)
            self._watched(connection, watching, command.request_id)

    async def _unwatch(
        self, connection: UserConnection, command: WatchFrame | UnwatchFrame
    ) -> None:
        find = self._sinks.people.find
        wanted = [await _read(find(person)) for person in command.user_ids]
        watching = self._sinks.watches.unwatch(connection, wanted)
        self._watched(connection, watching, command.request_id)

    def _watched(
        self, connection: UserConnection, watching: int, request_id: RequestIdValue
    ) -> None:
        if request_id is not None:
            connection.answer(WatchResult(watching=watching, request_id=request_id))

    def _watch_ops(
        self, connection: UserConnection, command: OpsWatchFrame | OpsUnwatchFrame
    ) -> None:
        if isinstance(command, OpsUnwatchFrame):
            self._sinks.ops.forget(connection)
            if command.request_id is not None:
                connection.answer(OpsWatchResult(every_s=0, request_id=command.request_id))
            return
        try:
            self._sinks.ops.watch(connection, command.every_s)
        except MeetingPushError as error:
            self._failed(connection, error, command.request_id)
            return
        connection.answer(OpsWatchResult(every_s=command.every_s, request_id=command.request_id))

    async def _mark_read(self, connection: UserConnection, command: ReadFrame) -> None:
        unread = await self._sinks.reads.mark_read(connection.user_id, command.message_ids)
        if command.request_id is not None:
            result = ReadSync(
                message_ids=command.message_ids,
                unread_count=unread,
                request_id=command.request_id,
            )
            connection.answer(result)

    async def _refresh(self, connection: UserConnection, command: RefreshTokenFrame) -> None:
        principal = await self._verified(connection, command.token, connection.user_id)
        if principal is not None and connection.closing_since is None:
            connection.principal = principal
            self._renewed(connection, principal, command.request_id)

    # ── 后台 ──────────────────────────────────────────────────────────────

    def _later(
        self,
        connection: UserConnection,
        work: Coroutine[object, object, None],
        request_id: RequestIdValue,
    ) -> None:
        if connection.requests >= MAX_REQUESTS:
            work.close()
            text = "too many requests at once"
            busy = ErrorFrame(code="busy", message=text, temporary=True, request_id=request_id)
            self.handle(connection, connection.session.fail(busy, self._clock()))
            return
        super()._later(connection, work, request_id)


async def _read(work: Awaitable[Found]) -> Found:
    """:raises BadFrameError: 帧里有的不是 id"""
    try:
        return await work
    except InvalidInputError as error:
        raise BadFrameError("invalid_frame", error.message) from None


def _why_unanswered(connection: UserConnection, now: int) -> FailureCause:
    """推到了这条连接上而没有确认：心跳照常的是客户端没有做它该做的，没有心跳的是线断了。"""
    if connection.closing_since is not None:
        left = cause_of_leaving(connection.ending, connection.code)
        return left or FailureCause.CLIENT
    silent = connection.session.missed_a_beat(now)
    return FailureCause.NETWORK if silent else FailureCause.CLIENT
