"""每种连接都有的那一半；用户的与会议的各有一份，毫无共享（ISO-1），共用的只是做法。

``Line`` 是一条：发件箱 + 驱动，welcome 之前抢着来的帧，怎样结束。``Lines`` 是一个节点上的全部：
门、登记、心跳。热路径上只加整数，要看的人来拉。
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any, Final, Generic, Protocol, TypeVar

from loguru import logger

from ..errors import MeetingPushError
from ..limits.rate import rate_key
from ..model import Principal
from ..protocol.codes import CloseCode
from ..protocol.commands import Command
from ..protocol.envelope import FrameRun
from ..protocol.frames import ServerFrame, encode
from ..protocol.limits import Limits
from ..protocol.outbox import Offered, Outbox
from ..supervision import Tasks
from .admission import Admission
from .handshake import Authenticator, Handshake, close_code_for, who_failed
from .heartbeat import HeartbeatSweep, Ticking

#: welcome 之前客户端就抢着发来的帧，最多留几帧；再多是捣乱。
MAX_EARLY_FRAMES: Final = 32


@dataclass(slots=True)
class LineCounters:
    """从启动起只增的计数；每一次丢弃都有一个原因（LESSONS 17）。"""

    connections_opened: int = 0
    frames_pushed: int = 0
    bytes_pushed: int = 0
    heartbeats: int = 0
    bad_frames: int = 0
    auth_failures: int = 0
    origins_refused: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    closes: Counter[int] = field(default_factory=Counter)

    def snapshot(self) -> dict[str, Any]:
        """此刻的各项，按名字。"""
        return {each.name: copy(getattr(self, each.name)) for each in fields(self)}


class Driver(Protocol):
    """传输。都是同步的、立即返回；阻塞与恢复由驱动调用 ``blocked``/``unblocked`` 告知。"""

    def write(self, frame: bytes) -> None:
        """写一帧文本；已断开则无事发生。"""

    def write_run(self, run: FrameRun) -> None:
        """依次写几帧。"""

    def close(self, code: int, reason: str) -> None:
        """发关闭帧，等对方的关闭帧；至多生效一次。"""

    def abort(self) -> None:
        """立即掐断。幂等。"""


class LineSession(Ticking, Protocol):
    """一条连接的协议核心。"""

    def receive(self, text: bytes, now: int) -> Command: ...

    def receive_binary(self, now: int) -> Command: ...


class LineHost(Protocol):
    """连接的主人（``Lines``）；都是同步的，不得抛出。"""

    clock: Callable[[], int]

    @property
    def counters(self) -> LineCounters: ...

    def on_command(self, connection: Any, command: Command, /) -> None: ...

    def on_blocked(self, connection: Any, /) -> None: ...

    def on_closing(self, connection: Any, /) -> None: ...

    def on_lost(self, connection: Any, /) -> None: ...


class Line:
    """发送都是同步的，从不抛出、从不等待；慢客户端只害它自己（CON-1）。"""

    __slots__ = (
        "_drained",
        "_driver",
        "_early",
        "_host",
        "_parting",
        "closing_since",
        "connection_id",
        "ip_address",
        "outbox",
        "requests",
        "session",
        "slot",
        "task",
        "welcomed",
    )

    session: LineSession

    def __init__(
        self, host: LineHost, driver: Driver, limits: Limits, connection_id: str, ip_address: str
    ) -> None:
        self.connection_id = connection_id
        self.ip_address = ip_address
        self.outbox = Outbox(limits)
        #: 正在进行的开始或补发；同一时刻至多一个。
        self.task: asyncio.Task[None] | None = None
        #: 还没有回答的请求数，归 ``requests`` 管。
        self.requests = 0
        #: 在时间轮上的格子，归 ``heartbeat`` 管。
        self.slot: int | None = None
        self.welcomed = False
        self.closing_since: int | None = None
        self._host = host
        self._driver = driver
        self._drained: asyncio.Future[None] | None = None
        self._early: list[bytes] | None = None
        #: 拒绝了，关闭帧还没有说。
        self._parting: asyncio.TimerHandle | None = None

    @property
    def known_user_id(self) -> int | None:
        """证明了自己是谁的，他的 id。"""
        raise NotImplementedError

    # ── 推 ────────────────────────────────────────────────────────────────

    def send(self, frame: bytes, now: int) -> None:
        """不问会话，直接交给发件箱。"""
        if self.closing_since is not None:
            return
        offered = self.outbox.offer(frame, now)
        if offered is Offered.SEND:
            self._write(frame)
        elif offered is Offered.OVERFLOW:
            self._host.counters.drops["outbox_overflow"] += 1
            self.close(CloseCode.SLOW_CONSUMER)

    def send_all(self, frames: Iterable[bytes]) -> None:
        now = self._host.clock()
        for frame in frames:
            self.send(frame, now)

    def answer(self, frame: ServerFrame) -> None:
        self.send(encode(frame), self._host.clock())

    def _write(self, frame: bytes) -> None:
        counters = self._host.counters
        counters.frames_pushed += 1
        counters.bytes_pushed += len(frame)
        try:
            self._driver.write(frame)
        except (RuntimeError, OSError) as error:
            self._write_failed(error)

    def _write_failed(self, error: Exception) -> None:
        """传输正在消失，断开的回调还没轮到：分发循环不能因它停下。"""
        logger.bind(line=self.connection_id, error=type(error).__name__).debug("write_failed")
        self._driver.abort()

    # ── 驱动的通知 ─────────────────────────────────────────────────────────

    def blocked(self) -> None:
        """传输的缓冲越过高水位。"""
        self.outbox.block(self._host.clock())
        self._host.on_blocked(self)

    def unblocked(self) -> None:
        """缓冲回到低水位：把排队的写出去，直到写完或再次阻塞。"""
        self.outbox.resume()
        while (frame := self.outbox.pop()) is not None:
            self._write(frame)
        if self.outbox.blocked_since is None:
            self._release()

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
        else:
            self._keep_early(text)

    def _keep_early(self, text: bytes) -> None:
        self._early = [*(self._early or ()), text]
        if len(self._early) > MAX_EARLY_FRAMES:
            self.close(CloseCode.PROTOCOL_VIOLATION)

    def receive_early(self) -> None:
        """处理 welcome 之前到来的帧。"""
        early, self._early = self._early, None
        for text in early or ():
            self.receive(text)

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
        """以 ``code`` 关闭；只有第一次生效。排队的帧丢弃：耐久的都还在记录里。

        ``after_s``：此刻起就不再理会它，关闭帧过这么久才说（见 ``RefusalPace``）。
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
        self.outbox.clear()
        self._early = None
        self._release()


SomeLine = TypeVar("SomeLine", bound=Line)
Opening = Coroutine[object, object, None]


class Lines(Generic[SomeLine]):
    """``heartbeat.run`` 须由监督者一直运行；``admission`` 由每扇门共用：合在一起算。"""

    #: 命令的去处；同步，不抛出。
    _handle: Callable[[SomeLine, Command], None]

    def __init__(
        self,
        authenticator: Authenticator,
        admission: Admission,
        limits: Limits,
        counters: LineCounters,
        clock: Callable[[], int],
    ) -> None:
        self.authenticator = authenticator
        self.admission = admission
        self.counters = counters
        self.clock = clock
        self.heartbeat: HeartbeatSweep[SomeLine] = HeartbeatSweep(limits, clock, self.on_command)
        self._handshake_timeout_s = limits.handshake_timeout_s
        self._linger_s = limits.close_linger_ms / 1000
        self._tasks = Tasks()
        #: 传输还在的，包括认证中的与正在关闭的。
        self._sockets: set[SomeLine] = set()
        self._empty = asyncio.Event()
        self._refusing_with: CloseCode | None = None

    # ── 门 ────────────────────────────────────────────────────────────────

    def origin_allowed(self, handshake: Handshake) -> bool:
        """驱动在升级之前问；False 则回 HTTP 403。"""
        allowed = self.authenticator.origin_allowed(handshake)
        if not allowed:
            self.counters.origins_refused += 1
        return allowed

    def _arrive(self, connection: SomeLine, opening: Callable[[], Opening], name: str) -> None:
        """登记，并在后台开始；节点或地址满了则拒绝。"""
        self._sockets.add(connection)
        self.counters.connections_opened += 1
        self.heartbeat.schedule(connection)
        room = self.admission.enter(connection.ip_address)
        if self._refusing_with is not None:
            connection.close(self._refusing_with)
        elif not room:
            self.turn_away(connection, CloseCode.TOO_MANY_CONNECTIONS)
        else:
            connection.task = self._tasks.spawn(opening(), name)

    async def _identify(
        self,
        connection: SomeLine,
        handshake: Handshake,
        verify: Callable[[Handshake], Awaitable[Principal]],
    ) -> Principal | None:
        """等到轮到，再验证；不许则关闭并返回 None。太久没有验证完则抛出 ``TimeoutError``。"""
        if not self.authenticator.suspects(handshake) and not await self.admission.turn():
            self.turn_away(connection, CloseCode.RATE_LIMITED)
            return None
        try:
            async with asyncio.timeout(self._handshake_timeout_s):
                return await verify(handshake)
        except MeetingPushError as error:
            self.counters.auth_failures += 1
            delay_s = self.admission.failure_delay_s(who_failed(error, connection.ip_address))
            connection.close(close_code_for(error), delay_s)
            return None

    def turn_away(self, connection: SomeLine, code: CloseCode) -> None:
        """在门口拒绝；一再来的，晚些才说。"""
        user_id = connection.known_user_id
        key = rate_key(connection.ip_address) if user_id is None else user_id
        connection.close(code, self.admission.closing_delay_s(key))

    def refuse(self, code: CloseCode | None) -> None:
        """此后的新连接一升级就以 ``code`` 关闭；None = 照常接受。"""
        self._refusing_with = code

    # ── LineHost ──────────────────────────────────────────────────────────

    def on_command(self, connection: SomeLine, command: Command) -> None:
        self._handle(connection, command)

    def on_blocked(self, connection: SomeLine) -> None:
        self.heartbeat.attend(connection)

    def on_closing(self, connection: SomeLine) -> None:
        self._depart(connection)
        if connection in self._sockets:
            self.heartbeat.attend(connection)

    def on_lost(self, connection: SomeLine) -> None:
        self._depart(connection)
        self.heartbeat.forget(connection)
        if connection in self._sockets:
            self._sockets.discard(connection)
            self.admission.leave(connection.ip_address)
        if not self._sockets:
            self._empty.set()

    def _depart(self, connection: SomeLine) -> None:
        """要走了：放下它占着的一切；幂等。"""
        task, connection.task = connection.task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def _wait_empty(self) -> None:
        """返回时所有 socket 都已断开，赖着不走的已掐断。"""
        if not self._sockets:
            return
        self._empty.clear()
        try:
            await asyncio.wait_for(self._empty.wait(), self._linger_s)
        except TimeoutError:
            for connection in list(self._sockets):
                connection.abort()
