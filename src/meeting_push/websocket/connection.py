"""一台设备的一条用户连接，与本节点的全部：按用户、按频道的表（热路径只查一次字典），同一帧给所有人，送所有人走。

分发分段进行，一次广播不会让别人等到它写完。一圈走遍所有人；走的时候新来的广播等着，下一圈一起带走：
忙不过来时，一人一次系统调用写出几帧。

送客打乱次序，匀着分散在一段时间里，不让所有客户端在同一刻去敲别的门（LESSONS 1）。
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, Protocol

from loguru import logger

from ..model import ConnectionInfo, MailboxView, PresenceStatus, Principal
from ..node_identity import NodeIdentity
from ..protocol.codes import CloseCode
from ..protocol.envelope import BroadcastId, FrameRun, PushKey
from ..protocol.frames import Notice, encode
from ..protocol.limits import Limits
from ..protocol.session import Phase, Pushed, Session
from ..redis.keys import Keys
from .handshake import Device, Handshake
from .line import Driver, Line, LineCounters, LineHost

#: 一帧没有推出去的全部原因。
DROP_REASONS: Final = (
    *(each.value for each in (Pushed.DUPLICATE, Pushed.HELD_OVERFLOW, Pushed.CLOSED)),
    *("outbox_overflow", "no_connection", "malformed_envelope"),
)


@dataclass(slots=True)
class EdgeCounters(LineCounters):
    acks: int = 0
    flushed_messages: int = 0
    rereads: int = 0


@dataclass(slots=True)
class EdgeStatistics(EdgeCounters):
    """``ConnectionManager.statistics()`` 的快照；``drops`` 按原因，``closes`` 按关闭码。

    ``connections`` 是已认证、登记着的；``sockets`` 还包括认证中的与正在关闭的，``waiting`` 是
    其中还在排队等着放行的。
    """

    connections: int = 0
    users: int = 0
    sockets: int = 0
    waiting: int = 0


#: 热路径上少一次属性查找。
_LIVE: Final = Phase.LIVE
_SEND: Final = Pushed.SEND


class ConnectionHost(LineHost, Protocol):
    """连接的主人（``ConnectionManager``）。"""

    limits: Limits
    node: NodeIdentity

    def on_hole(self, connection: UserConnection) -> None: ...


class UserConnection(Line):
    """``offer`` 也是同步的，从不抛出、从不等待。"""

    __slots__ = ("announced", "connect_time", "device", "principal", "status", "user_id")

    _host: ConnectionHost
    session: Session

    def __init__(
        self, host: ConnectionHost, driver: Driver, handshake: Handshake, connection_id: str
    ) -> None:
        super().__init__(host, driver, host.limits, connection_id, handshake.ip_address)
        now = host.clock()
        self.user_id = handshake.user_id
        self.device = Device.of(handshake, connection_id)
        self.connect_time = now
        self.status: PresenceStatus = "active"
        #: 凭它站在这里的身份；认证之前为 None。
        self.principal: Principal | None = None
        self.session = Session(self.user_id, connection_id, host.limits, now)
        #: 已向在线状态报到，离开时须销号。
        self.announced = False

    @property
    def known_user_id(self) -> int | None:
        return None if self.principal is None else self.user_id

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

    def welcome(self, view: MailboxView) -> None:
        self.send_all(self.session.welcome(view, self.device.device_id, self._host.clock()))
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
        self.session.close()


class Registry:
    """列表写时复制：分发正在遍历旧列表时，连接可以放心离开。"""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.by_user: dict[int, list[UserConnection]] = {}
        self.by_channel: dict[bytes, list[UserConnection]] = {}

    def add(self, connection: UserConnection) -> None:
        user_id = connection.user_id
        self._put(user_id, [*self.by_user.get(user_id, ()), connection])

    def remove(self, connection: UserConnection) -> bool:
        """不在表里则 False。"""
        before = self.by_user.get(connection.user_id, [])
        after = [each for each in before if each is not connection]
        if len(after) == len(before):
            return False
        self._put(connection.user_id, after)
        return True

    def _put(self, user_id: int, connections: list[UserConnection]) -> None:
        channel = self._keys.user_channel(user_id).encode()
        if connections:
            self.by_user[user_id] = self.by_channel[channel] = connections
        else:
            del self.by_user[user_id], self.by_channel[channel]

    def __iter__(self) -> Iterator[UserConnection]:
        """此刻全部连接的快照。"""
        for connections in list(self.by_user.values()):
            yield from connections

    def __len__(self) -> int:
        return sum(map(len, self.by_user.values()))


#: 一段写多少条连接；每条约 5 µs，一段 2.5 ms。
FANOUT_CHUNK: Final = 500
#: 一圈至多带走这么多字节（至少一帧）：再多，一次写会装不进套接字的缓冲。
LAP_BYTES: Final = 32 * 1024


class Fanout:
    """先来的广播先发完，所以一条连接上广播的次序不变。``everyone`` 每次遍历是此刻的快照。"""

    def __init__(self, everyone: Iterable[UserConnection], clock: Callable[[], int]) -> None:
        self._everyone = everyone
        self._clock = clock
        self._waiting: deque[tuple[bytes, PushKey]] = deque()
        self._lap: Iterator[UserConnection] | None = None
        self._run: FrameRun

    def spread(self, frame: bytes, broadcast_id: BroadcastId | None = None) -> None:
        """``frame`` 不占用户的 seq：耐久的广播有自己的号（``broadcast_id``），与信箱无关。"""
        self._waiting.append((frame, broadcast_id))
        if self._lap is None:
            self._step()

    def _step(self) -> None:
        if self._lap is None:
            self._lap, self._run = iter(self._everyone), FrameRun.of(self._take())
        try:
            if self._offer(islice(self._lap, FANOUT_CHUNK)) < FANOUT_CHUNK:
                self._lap = None
        except Exception as error:  # noqa: BLE001 — 一条坏连接不许让广播从此停下：从下一条接着走
            logger.opt(exception=error).error("fanout_failed")
        if self._lap is not None or self._waiting:
            asyncio.get_running_loop().call_soon(self._step)

    def _take(self) -> list[tuple[bytes, PushKey]]:
        taken = [self._waiting.popleft()]
        size = len(taken[0][0])
        while self._waiting and (size := size + len(self._waiting[0][0])) <= LAP_BYTES:
            taken.append(self._waiting.popleft())
        return taken

    def _offer(self, connections: Iterable[UserConnection]) -> int:
        run, now, offered = self._run, self._clock(), 0
        [(frame, key), *more] = run.frames
        for connection in connections:
            if more:
                connection.offer_run(run, now)
            else:
                connection.offer(frame, key, now)
            offered += 1
        return offered


#: 每秒至多送走这么多：客人少时很快送完，多时由窗口封顶。
LEAVING_PER_S: Final = 200
#: 告诉客户端的重连窗口不短于它：为 0 就是请所有人立刻一起回来。
MIN_RECONNECT_MS: Final = 500
#: 不必等的时候，每送走这么多让别人跑一跑。
LEAVING_AT_ONCE: Final = 100

#: 值得先打招呼的关闭码 → ``notice`` 的 code。
_NOTICES: Final = {
    CloseCode.SERVER_DRAINING: "draining",
    CloseCode.NODE_UNHEALTHY: "node_unhealthy",
}


def window_s(connections: int, longest_s: float) -> float:
    """送走这么多客人该用多久。"""
    return min(longest_s, connections / LEAVING_PER_S)


def farewell(code: CloseCode, spread_s: float) -> bytes | None:
    """以 ``code`` 请走之前打的招呼；不值得打的则 None。"""
    if code not in _NOTICES:
        return None
    after_ms = max(MIN_RECONNECT_MS, int(spread_s * 1000))
    return encode(Notice(code=_NOTICES[code], reconnect_after_ms=after_ms))


async def send_off(
    connections: Iterable[Line], code: CloseCode, spread_s: float, notice: bytes | None = None
) -> None:
    """给每条连接 ``notice`` 并以 ``code`` 关闭；还在积压的排在最后，好让它们多写出一些。"""
    leaving = list(connections)
    random.shuffle(leaving)
    leaving.sort(key=lambda each: each.outbox.blocked_since is not None)
    async for connection in _paced(leaving, spread_s):
        if notice is not None and connection.welcomed:  # ``welcome`` 必须是第一帧
            connection.send_all((notice,))
        connection.close(code)


async def _paced(connections: Sequence[Line], spread_s: float) -> AsyncIterator[Line]:
    loop = asyncio.get_running_loop()
    started, step_s = loop.time(), spread_s / max(1, len(connections))
    for index, connection in enumerate(connections):
        early_s = started + index * step_s - loop.time()
        if early_s > 0 or index % LEAVING_AT_ONCE == 0:
            await asyncio.sleep(max(0, early_s))
        yield connection
