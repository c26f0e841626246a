"""一台设备的一条连接：会话 + 发件箱 + 驱动；与边缘的计数。热路径上只加整数，要看的人来拉。"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from loguru import logger

from ..model import ConnectionInfo, MailboxView, PresenceStatus, Principal
from ..node_identity import NodeIdentity
from ..protocol.codes import CloseCode
from ..protocol.commands import Command
from ..protocol.envelope import FrameRun, PushKey
from ..protocol.limits import Limits
from ..protocol.outbox import Outbox, Verdict
from ..protocol.session import Phase, Pushed, Session
from .handshake import Device, Handshake

#: 一帧没有推出去的全部原因。
DROP_REASONS: Final = (
    *(each.value for each in (Pushed.DUPLICATE, Pushed.HELD_OVERFLOW, Pushed.CLOSED)),
    *("outbox_overflow", "no_connection", "malformed_envelope"),
)


@dataclass(slots=True)
class EdgeCounters:
    """从启动起只增的计数；每一次丢弃都有一个原因（LESSONS 17）。"""

    connections_opened: int = 0
    frames_pushed: int = 0
    bytes_pushed: int = 0
    acks: int = 0
    heartbeats: int = 0
    bad_frames: int = 0
    auth_failures: int = 0
    origins_refused: int = 0
    flushed_messages: int = 0
    rereads: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    closes: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class EdgeStatistics:
    """``ConnectionManager.statistics()`` 的快照；``drops`` 按原因，``closes`` 按关闭码。

    ``connections`` 是已认证、登记着的；``sockets`` 还包括认证中的与正在关闭的，``waiting`` 是
    其中还在排队等着放行的。
    """

    connections: int
    users: int
    sockets: int
    waiting: int
    connections_opened: int
    frames_pushed: int
    bytes_pushed: int
    acks: int
    heartbeats: int
    bad_frames: int
    auth_failures: int
    origins_refused: int
    flushed_messages: int
    rereads: int
    drops: dict[str, int]
    closes: dict[int, int]


#: welcome 之前客户端就抢着发来的帧，最多留几帧；再多是捣乱。
MAX_EARLY_FRAMES: Final = 32
#: 热路径上少一次属性查找。
_LIVE: Final = Phase.LIVE
_SEND: Final = Pushed.SEND


class Driver(Protocol):
    """传输。都是同步的、立即返回；阻塞与恢复由驱动调用 ``blocked``/``unblocked`` 告知。"""

    def write(self, frame: bytes) -> None:
        """写一帧文本；已断开则无事发生。"""
        ...

    def write_run(self, run: FrameRun) -> None:
        """依次写几帧。"""
        ...

    def close(self, code: int, reason: str) -> None:
        """发关闭帧，等对方的关闭帧；至多生效一次。"""
        ...

    def abort(self) -> None:
        """立即掐断。幂等。"""
        ...


class ConnectionHost(Protocol):
    """连接的主人（``ConnectionManager``）；都是同步的，不得抛出。"""

    limits: Limits
    counters: EdgeCounters
    clock: Callable[[], int]
    node: NodeIdentity

    def on_command(self, connection: UserConnection, command: Command) -> None: ...

    def on_hole(self, connection: UserConnection) -> None: ...

    def on_blocked(self, connection: UserConnection) -> None: ...

    def on_closing(self, connection: UserConnection) -> None: ...

    def on_lost(self, connection: UserConnection) -> None: ...


class UserConnection:
    """``offer`` 与 ``send`` 同步、从不抛出、从不等待；慢客户端只害它自己（CON-1）。"""

    __slots__ = (
        "_drained",
        "_driver",
        "_early",
        "_host",
        "_parting",
        "announced",
        "closing_since",
        "connect_time",
        "connection_id",
        "device",
        "ip_address",
        "outbox",
        "principal",
        "requests",
        "session",
        "slot",
        "status",
        "task",
        "user_id",
    )

    def __init__(
        self, host: ConnectionHost, driver: Driver, handshake: Handshake, connection_id: str
    ) -> None:
        now = host.clock()
        self.user_id = handshake.user_id
        self.connection_id = connection_id
        self.device = Device.of(handshake, connection_id)
        self.ip_address = handshake.ip_address
        self.connect_time = now
        self.status: PresenceStatus = "active"
        #: 凭它站在这里的身份；认证之前为 None。
        self.principal: Principal | None = None
        self.session = Session(self.user_id, connection_id, host.limits, now)
        self.outbox = Outbox(host.limits)
        #: 正在进行的开始或补发；同一时刻至多一个。
        self.task: asyncio.Task[None] | None = None
        #: 正在进行的异步请求数，归 ``requests`` 管。
        self.requests = 0
        #: 已向在线状态报到，离开时须销号。
        self.announced = False
        #: 在时间轮上的格子，归 ``heartbeat`` 管。
        self.slot: int | None = None
        self.closing_since: int | None = None
        self._host = host
        self._driver = driver
        self._drained: asyncio.Future[None] | None = None
        self._early: list[bytes] | None = None
        #: 拒绝了，关闭帧还没有说。
        self._parting: asyncio.TimerHandle | None = None

    def let_go(self) -> None:
        """此刻的任务做完了：不留着它的 300 字节。"""
        if self.task is asyncio.current_task():
            self.task = None

    def info(self) -> ConnectionInfo:
        return ConnectionInfo(
            connection_id=self.connection_id,
            device_id=self.device.device_id,
            device_info=self.device.device_info,
            connect_time=self.connect_time,
            last_heartbeat=self.session.last_heartbeat,
            ip_address=self.ip_address,
            status=self.status,
            node=self._host.node.id,
        )

    def change_status(self, status: PresenceStatus, device_info: str | None) -> None:
        self.status = status
        if device_info is not None:
            self.device = replace(self.device, device_info=device_info)

    # ── 推 ────────────────────────────────────────────────────────────────

    def offer(self, frame: bytes, key: PushKey, now: int) -> None:
        """一帧实时帧：写出、排队、暂存或丢弃。"""
        session = self.session
        transient = key is None and session.phase is _LIVE  # 不记账
        pushed = _SEND if transient else session.push(frame, key, now)
        if pushed is not _SEND:
            self._not_now(pushed)
        elif self.outbox.clear_way:
            self._write(frame)
        else:
            self.send(frame, now)

    def offer_run(self, run: FrameRun, now: int) -> None:
        """几帧广播：都要现在写，就一次写出。"""
        due = []
        for frame, key in run.frames:
            pushed = self.session.push(frame, key, now)
            if pushed is _SEND:
                due.append(frame)
            else:
                self._not_now(pushed)
        if len(due) == len(run.frames) and self.outbox.clear_way and self.closing_since is None:
            self._write_run(run)
        else:
            for frame in due:
                self.send(frame, now)

    def _not_now(self, pushed: Pushed) -> None:
        if pushed is Pushed.HOLE:
            self._host.on_hole(self)
        elif pushed is not Pushed.HELD:
            self._host.counters.drops[pushed.value] += 1

    def send(self, frame: bytes, now: int) -> None:
        """不问会话，直接交给发件箱。"""
        if self.closing_since is not None:
            return
        verdict = self.outbox.offer(frame, now)
        if verdict is Verdict.SEND:
            self._write(frame)
        elif verdict is Verdict.OVERFLOW:
            self._host.counters.drops["outbox_overflow"] += 1
            self.close(CloseCode.SLOW_CONSUMER)

    def send_all(self, frames: Iterable[bytes]) -> None:
        now = self._host.clock()
        for frame in frames:
            self.send(frame, now)

    def _write(self, frame: bytes) -> None:
        counters = self._host.counters
        counters.frames_pushed += 1
        counters.bytes_pushed += len(frame)
        try:
            self._driver.write(frame)
        except (RuntimeError, OSError) as error:
            self._write_failed(error)

    def _write_run(self, run: FrameRun) -> None:
        counters = self._host.counters
        counters.frames_pushed += len(run.frames)
        counters.bytes_pushed += run.size
        try:
            self._driver.write_run(run)
        except (RuntimeError, OSError) as error:
            self._write_failed(error)

    def _write_failed(self, error: Exception) -> None:
        """传输正在消失而断开的回调还没轮到：分发循环不能因它停下。"""
        logger.bind(user_id=self.user_id, error=type(error).__name__).debug("write_failed")
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
        if self.session.phase is Phase.OPENING:
            self._keep_early(text)
        else:
            self._host.on_command(self, self.session.receive(text, self._host.clock()))

    def _keep_early(self, text: bytes) -> None:
        if self._early is None:
            self._early = []
        largest = self._host.limits.max_frame_bytes
        if len(self._early) == MAX_EARLY_FRAMES or len(text) > largest:
            self.close(CloseCode.PROTOCOL_VIOLATION)
        else:
            self._early.append(text)

    def welcome(self, view: MailboxView) -> None:
        self.send_all(self.session.welcome(view, self.device.device_id, self._host.clock()))

    def receive_early(self) -> None:
        """处理 welcome 之前到来的帧。"""
        early, self._early = self._early, None
        for text in early or ():
            self.receive(text)

    def receive_binary(self) -> None:
        if self.closing_since is not None:
            return
        if self.session.phase is Phase.OPENING:
            self.close(CloseCode.PROTOCOL_VIOLATION)
        else:
            self._host.on_command(self, self.session.receive_binary(self._host.clock()))

    def lost(self) -> None:
        """传输已断开；幂等。"""
        self._host.on_lost(self)
        self._end()
        if self._parting is not None:
            self._parting.cancel()
            self._parting = None

    # ── 结束 ──────────────────────────────────────────────────────────────

    def close(self, code: CloseCode, after_s: float = 0) -> None:
        """以 ``code`` 关闭；只有第一次生效。排队的帧丢弃：耐久的消息还在信箱里。

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
        self.session.close()
        self.outbox.clear()
        self._early = None
        self._release()
