"""一台设备在一场会议里的一条连接：会话 + 发件箱 + 驱动；与会议的计数。"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from loguru import logger

from ..errors import MeetingPushError
from ..model import Principal
from ..protocol.codes import CloseCode
from ..protocol.commands import Command, RequestIdValue
from ..protocol.frames import ErrorFrame, ServerFrame, encode
from ..protocol.outbox import HeldFrames, Outbox, Verdict
from ..redis.meeting_bus import member_of
from ..websocket.connection import Driver
from .frames import SegmentResult
from .session import MeetingLimits, MeetingSession

#: 常见的原因；别的错误（``request_<code>``、``not_stored_<code>``）发生了才有。
MEETING_DROP_REASONS: Final = (
    *("busy", "no_connection", "malformed_envelope", "outbox_overflow"),
    *("request_redis_unavailable", "request_database_unavailable"),
    *("not_stored_database_unavailable", "not_stored_meeting_ended"),
)


@dataclass(slots=True)
class MeetingCounters:
    """从启动起只增的计数；每一次丢弃都有一个原因。"""

    connections_opened: int = 0
    frames_pushed: int = 0
    segments_stored: int = 0
    interims_published: int = 0
    heartbeats: int = 0
    refused_frames: int = 0
    auth_failures: int = 0
    origins_refused: int = 0
    #: 频道上漏了而从记录里补上的段。
    segments_reread: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    closes: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class MeetingStatistics:
    """``MeetingHub.statistics()`` 的快照；``sockets`` 还含认证中与正在关闭的。"""

    meetings: int
    connections: int
    sockets: int
    connections_opened: int
    frames_pushed: int
    segments_stored: int
    interims_published: int
    heartbeats: int
    refused_frames: int
    auth_failures: int
    origins_refused: int
    segments_reread: int
    drops: dict[str, int]
    closes: dict[int, int]


#: welcome 之前客户端就抢着发来的帧，最多留几帧；再多是捣乱。
MAX_EARLY_FRAMES: Final = 32


class MeetingHost(Protocol):
    """连接的主人（``MeetingHub``）；都是同步的，不得抛出。"""

    limits: MeetingLimits
    counters: MeetingCounters
    clock: Callable[[], int]

    def on_command(self, connection: MeetingConnection, command: Command) -> None: ...

    def on_blocked(self, connection: MeetingConnection) -> None: ...

    def on_closing(self, connection: MeetingConnection) -> None: ...

    def on_lost(self, connection: MeetingConnection) -> None: ...


class MeetingConnection:
    """发送都是同步的，从不抛出、从不等待；慢客户端只害它自己（CON-1）。"""

    __slots__ = (
        "_drained",
        "_driver",
        "_early",
        "_held",
        "_host",
        "_last_frame",
        "_parting",
        "closing_since",
        "connection_id",
        "entered",
        "ip_address",
        "live",
        "meeting_id",
        "outbox",
        "requests",
        "seated",
        "session",
        "slot",
        "task",
        "welcomed",
    )

    def __init__(
        self,
        host: MeetingHost,
        driver: Driver,
        meeting_id: str,
        ip_address: str,
        connection_id: str,
    ) -> None:
        self.meeting_id = meeting_id
        self.connection_id = connection_id
        self.ip_address = ip_address
        #: ``session.seq`` 是已写给它（或已排队）的最后一段。
        self.session = MeetingSession(connection_id, host.limits, host.clock())
        self.outbox = Outbox(host.limits.line)
        #: 补发完毕，新的段直接写给它。
        self.live = False
        self.welcomed = False
        #: 已算在场，离开时须销号。
        self.entered = False
        #: 占着（或正要占）一个座位，离开时须让出。
        self.seated = False
        #: 正在进行的开始与补发。
        self.task: asyncio.Task[None] | None = None
        #: 还没有回答的请求数。
        self.requests = 0
        self.slot: int | None = None
        self.closing_since: int | None = None
        self._host = host
        self._driver = driver
        self._drained: asyncio.Future[None] | None = None
        self._early: list[bytes] = []
        self._held = HeldFrames()
        self._last_frame: bytes | None = None
        #: 拒绝了，关闭帧还没有说。
        self._parting: asyncio.TimerHandle | None = None

    @property
    def principal(self) -> Principal:
        assert self.session.principal is not None, "not authenticated yet"
        return self.session.principal

    @property
    def member(self) -> str:
        principal = self.principal
        return member_of(principal.user_id, self.connection_id, principal.name)

    # ── 推 ────────────────────────────────────────────────────────────────

    def send(self, frame: bytes, now: int) -> None:
        if self.closing_since is not None or self._last_frame is not None:
            return
        verdict = self.outbox.offer(frame, now)
        if verdict is Verdict.SEND:
            self._write(frame)
        elif verdict is Verdict.OVERFLOW:
            self._host.counters.drops["outbox_overflow"] += 1
            self.close(CloseCode.SLOW_CONSUMER)

    def push_segment(self, seq: int, frame: bytes, now: int) -> None:
        """号为 ``seq`` 的一段；补发已给过的不再给。"""
        if self.live and seq > self.session.seq:
            self.session.seq = seq
            self.send(frame, now)

    def push_interim(self, frame: bytes, now: int) -> None:
        """临时的：还在补发的不给，它不该先于历史。"""
        if self.live:
            self.send(frame, now)

    def push_presence(self, frame: bytes, now: int) -> None:
        """``join``、``leave``：welcome 之前到来的留到它之后。"""
        if self.welcomed:
            self.send(frame, now)
        elif not self._held.add(frame, None, self._host.limits.line.held_max_bytes):
            self.close(CloseCode.SLOW_CONSUMER)

    def welcome(self, frame: bytes, now: int) -> None:
        """第一帧；随后放行暂存的在场变化，处理抢先发来的帧。"""
        self.send(frame, now)
        self.welcomed = True
        for _, held, _ in self._held.take():
            self.send(held, now)
        early, self._early = self._early, []
        for text in early:
            self.receive(text)

    def finish(self, frame: bytes, now: int) -> None:
        """最后一帧，写完之后以 1000 关闭；读得慢的先让它读完（时限同平常）。"""
        self.send(frame, now)
        self._last_frame = frame
        if self.outbox.blocked_since is None:
            self.close(CloseCode.NORMAL)

    def reply(self, frame: bytes) -> None:
        self.send(frame, self._host.clock())

    def answer(self, frame: ServerFrame) -> None:
        self.reply(encode(frame))

    def refuse(self, error: MeetingPushError, request_id: RequestIdValue) -> None:
        """一个请求没有做成；不算坏帧。"""
        self.answer(
            ErrorFrame(
                code=error.code,
                message=error.message,
                temporary=error.temporary,
                request_id=request_id,
            )
        )

    def stored(self, seq: int, request_id: RequestIdValue) -> None:
        self.requests -= 1
        if request_id is not None:
            self.answer(SegmentResult(seq=seq, request_id=request_id))

    def not_stored(self, error: MeetingPushError, request_id: RequestIdValue) -> None:
        self.requests -= 1
        self.refuse(error, request_id)

    def _write(self, frame: bytes) -> None:
        self._host.counters.frames_pushed += 1
        try:
            self._driver.write(frame)
        except (RuntimeError, OSError) as error:
            # 传输正在消失：分发循环不能因它停下
            logger.bind(meeting_id=self.meeting_id, error=type(error).__name__).debug(
                "meeting_write_failed"
            )
            self._driver.abort()

    # ── 驱动的通知 ─────────────────────────────────────────────────────────

    def blocked(self) -> None:
        self.outbox.block(self._host.clock())
        self._host.on_blocked(self)

    def unblocked(self) -> None:
        """缓冲回到低水位：把排队的写出去，直到写完或再次阻塞。"""
        self.outbox.resume()
        while (frame := self.outbox.pop()) is not None:
            self._write(frame)
        if self.outbox.blocked_since is None:
            self._release()
            if self._last_frame is not None:
                self.close(CloseCode.NORMAL)

    async def writable(self) -> None:
        """等到发件箱不再阻塞；补发用它让自己慢下来。连接关闭时返回。"""
        while self.outbox.blocked_since is not None and self.closing_since is None:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def _release(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def receive(self, text: bytes) -> None:
        """一帧文本。welcome 之前来的先留着：welcome 必须是第一帧。"""
        if self.closing_since is not None:
            return
        if self.welcomed:
            self._host.on_command(self, self.session.receive(text, self._host.clock()))
        elif len(self._early) < MAX_EARLY_FRAMES:
            self._early.append(text)
        else:
            self.close(CloseCode.PROTOCOL_VIOLATION)

    def receive_binary(self) -> None:
        if self.closing_since is not None:
            return
        if self.welcomed:
            self._host.on_command(self, self.session.receive_binary(self._host.clock()))
        else:
            self.close(CloseCode.PROTOCOL_VIOLATION)

    def lost(self) -> None:
        """传输已断开；幂等。"""
        self._host.on_lost(self)
        self._end()
        if self._parting is not None:
            self._parting.cancel()
            self._parting = None

    # ── 结束 ──────────────────────────────────────────────────────────────

    def close(self, code: CloseCode, after_s: float = 0) -> None:
        """以 ``code`` 关闭；只有第一次生效。排队的帧丢弃：转录还在记录里。

        ``after_s`` 同 ``UserConnection.close``。
        """
        if self.closing_since is not None:
            return
        self.closing_since = self._host.clock() + int(after_s * 1000)
        self._host.counters.closes[code] += 1
        self._end()
        if after_s:
            loop = asyncio.get_running_loop()
            self._parting = loop.call_later(after_s, self.part, code)
        else:
            self._driver.close(code, code.reason)
        self._host.on_closing(self)

    def part(self, code: CloseCode) -> None:
        """还欠着关闭帧的，现在就说；不欠则无事发生。"""
        parting, self._parting = self._parting, None
        if parting is not None:
            parting.cancel()
            self._driver.close(code, code.reason)

    def abort(self) -> None:
        self._driver.abort()

    def _end(self) -> None:
        if self.closing_since is None:
            self.closing_since = self._host.clock()
        self.live = False
        self.outbox.clear()
        self._early = []
        self._release()
