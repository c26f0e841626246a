"""一条连接：每种都有的那一半（``Line``：发件箱、驱动、抢着来的帧、怎样结束），与用户的那一种。

用户的与会议的各有一份，毫无共享（ISO-1），共用的只是做法。热路径上只加整数，要看的人来拉。
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import ClassVar, Final, Protocol

from msgspec.structs import replace

from ..contracts import Newcomer
from ..logs import logger
from ..mailbox_model import MailboxView
from ..model import ConnectionInfo, PresenceStatus, Principal, Transport
from ..node_identity import NodeIdentity
from ..person_id import number_or_nobody
from ..protocol.codes import CloseCode, Ending, ended_by_us
from ..protocol.envelope import FrameRun, PushKey
from ..protocol.frames import ServerFrame, encode
from ..protocol.limits import Limits
from ..protocol.line_session import LineSession
from ..protocol.outbox import Offered, Outbox
from ..protocol.session import Phase, Pushed, Session
from .handshake import Device, Handshake
from .line_host import Driver, LineHost

#: welcome 之前客户端就抢着发来的帧，最多留几帧；再多是捣乱。
MAX_EARLY_FRAMES: Final = 32


class Line:
    """发送都是同步的，从不抛出、从不等待；慢客户端只害它自己（CON-1）。"""

    __slots__ = (
        "_drained",
        "_driver",
        "_early",
        "_host",
        "_parting",
        "closing_since",
        "code",
        "connection_id",
        "ending",
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
        #: 正在进行的开始或补发，走了就取消；同一时刻至多一个。开始得顺利的没有任务。
        self.task: asyncio.Task[None] | None = None
        #: 还没有回答的请求数，归 ``requests`` 管。
        self.requests = 0
        #: 在时间轮上的格子，归 ``heartbeat`` 管。
        self.slot: int | None = None
        self.welcomed = False
        self.closing_since: int | None = None
        #: 怎样结束的，谁先说的算；None 是没有人说。
        self.ending: Ending | None = None
        #: 我们以它关闭的。
        self.code: CloseCode | None = None
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
        log = logger.bind(connection_id=self.connection_id, error=type(error).__name__)
        log.debug("write_failed")
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
        self.ending = self.ending or ended_by_us(code)
        self.code = code
        self.closing_since = self._host.clock() + int(after_s * 1000)
        self._host.counters.closes[code] += 1
        self._end()
        if after_s:
            loop = asyncio.get_running_loop()
            self._parting = loop.call_later(after_s, self.part, code)
        else:
            self._driver.close(code, code.reason)
        self._host.on_closing(self)

    def expel(self, code: CloseCode) -> None:
        """他胡来：关闭；一再来的，晚些才说。"""
        self._host.expel(self, code)

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


# ── 用户的 ───────────────────────────────────────────────────────────────────

#: 热路径上少一次属性查找。
_LIVE: Final = Phase.LIVE
_SEND: Final = Pushed.SEND


class ConnectionHost(LineHost, Protocol):
    """连接的主人（``ConnectionManager``）。"""

    limits: Limits
    node: NodeIdentity

    def on_hole(self, connection: UserConnection) -> None: ...

    def on_unacked(self, connection: UserConnection) -> None: ...

    def on_beating(self, connection: UserConnection) -> None: ...


class UserConnection(Line):
    """``offer`` 也是同步的，从不抛出、从不等待。"""

    __slots__ = ("announced", "connect_time", "device", "principal", "status", "user_id")

    #: 怎样连着的。
    transport: ClassVar[Transport] = "websocket"
    kind: ClassVar[type[Session]] = Session
    _host: ConnectionHost
    session: Session

    def __init__(
        self, host: ConnectionHost, driver: Driver, handshake: Handshake, connection_id: str
    ) -> None:
        super().__init__(host, driver, host.limits, connection_id, handshake.ip_address)
        now = host.clock()
        #: 号；id 是一段字的，认证之后才知道（``identified``）。
        self.user_id = number_or_nobody(handshake.person)
        self.device = Device.of(handshake, connection_id)
        self.connect_time = now
        self.status: PresenceStatus = "active"
        #: 凭它站在这里的身份；认证之前为 None。
        self.principal: Principal | None = None
        self.session = self.kind(self.user_id, connection_id, host.limits, now)
        #: 已向在线状态报到，离开时须销号。
        self.announced = False

    @property
    def known_user_id(self) -> int | None:
        return None if self.principal is None else self.user_id

    def identified(self, principal: Principal) -> None:
        """凭 ``principal`` 站在这里。"""
        self.principal = principal
        self.user_id = principal.user_id
        self.session.authenticated(principal)

    def newcomer(self) -> Newcomer:
        device = self.device
        return Newcomer(self.user_id, self.connection_id, device.device_id, device.resume)

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
            transport=self.transport,
        )

    def change_status(self, status: PresenceStatus, device_info: str | None) -> None:
        self.status = status
        if device_info is not None:
            self.device = replace(self.device, device_info=device_info)

    def welcome(self, view: MailboxView) -> None:
        person = None if self.principal is None else self.principal.subject
        now = self._host.clock()
        self.send_all(self.session.welcome(view, self.device.device_id, now, person))
        self.welcomed = True

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

    def offer_or_drop(self, frame: bytes, now: int) -> None:
        """瞬时的一帧：此刻写得出去才写；不然丢了，不占发件箱。"""
        if self.session.phase is _LIVE and self.outbox.clear_way:
            self.send(frame, now)
        else:
            self._host.counters.drops["not_clear"] += 1

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

    def _write_run(self, run: FrameRun) -> None:
        counters = self._host.counters
        counters.frames_pushed += len(run.frames)
        counters.bytes_pushed += run.size
        try:
            self._driver.write_run(run)
        except (RuntimeError, OSError) as error:
            self._write_failed(error)

    def _keep_early(self, text: bytes) -> None:
        if len(text) > self._host.limits.max_frame_bytes:
            self.close(CloseCode.PROTOCOL_VIOLATION)
        else:
            super()._keep_early(text)

    def _end(self) -> None:
        super()._end()
        if self.session.unacked.fresh:
            self._host.on_unacked(self)
        self.session.close()
