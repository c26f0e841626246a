"""一个节点上的全部连接：门、登记、心跳（每种各有一份）；用户的还有按用户、按频道的表（热路径只查一次
字典），同一帧给所有人，送所有人走。

分发分段进行，一次广播不会让别人等到它写完。一圈走遍所有人；走的时候新来的广播等着，下一圈一起带走：
忙不过来时，一人一次系统调用写出几帧。

送客打乱次序，匀着分散在一段时间里，不让所有客户端在同一刻去敲别的门（LESSONS 1）。
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from dataclasses import dataclass
from itertools import islice
from typing import Final, Generic, TypeVar

from ..errors import MeetingPushError
from ..limits.rate import rate_key
from ..logs import logger
from ..model import Principal
from ..protocol.codes import CloseCode, Ending
from ..protocol.commands import Command
from ..protocol.envelope import BroadcastId, FrameRun, PushKey
from ..protocol.frames import Notice, encode
from ..protocol.limits import Limits
from ..protocol.session import Pushed
from ..redis.keys import Keys
from ..supervision import Tasks
from .admission import Admission
from .handshake import Authenticator, Handshake, close_code_for, who_failed
from .heartbeat import HeartbeatSweep
from .line import Line, UserConnection
from .line_host import LineCounters

#: 一帧没有推出去的全部原因。
DROP_REASONS: Final = (
    *(each.value for each in (Pushed.DUPLICATE, Pushed.HELD_OVERFLOW, Pushed.CLOSED)),
    *("outbox_overflow", "no_connection", "malformed_envelope"),
)


#: 别处的页面来连，升级之前就拒绝了。
FOREIGN_ORIGIN: Final = "foreign_origin"
#: 在门口拒绝一条连接的全部原因。
REFUSALS: Final = (
    FOREIGN_ORIGIN,
    *(
        each.reason
        for each in (
            *(CloseCode.TOKEN_EXPIRED, CloseCode.INVALID_TOKEN, CloseCode.REVOKED),
            *(CloseCode.FORBIDDEN, CloseCode.RATE_LIMITED, CloseCode.TOO_MANY_CONNECTIONS),
            *(CloseCode.SERVER_DRAINING, CloseCode.NODE_UNHEALTHY),
        )
    ),
)


@dataclass(slots=True)
class EdgeCounters(LineCounters):
    acks: int = 0
    #: 信箱里的消息第一次实时推（重试不算），每台设备一次。
    first_pushes: int = 0
    flushed_messages: int = 0
    rereads: int = 0


@dataclass(slots=True)
class EdgeStatistics(EdgeCounters):
    """``ConnectionManager.statistics()`` 的快照；``drops`` 按原因，``closes`` 按关闭码。

    ``connections`` 是已认证、登记着的，``streams`` 是其中的 SSE，``relayed`` 是其中由应用的服务器
    （ASGI）握着的 WebSocket；``sockets`` 还包括认证中的与正在关闭的，``waiting`` 是其中还在排队等着
    放行的。
    """

    connections: int = 0
    streams: int = 0
    relayed: int = 0
    users: int = 0
    sockets: int = 0
    waiting: int = 0


SomeLine = TypeVar("SomeLine", bound=Line)


class Lines(Generic[SomeLine]):
    """``heartbeat.run`` 须由监督者一直运行；``admission`` 由每扇门共用：合在一起算。"""

    #: 命令的去处；同步，不抛出。
    on_command: Callable[[SomeLine, Command], None]

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
        self.heartbeat: HeartbeatSweep[SomeLine] = HeartbeatSweep(
            limits, clock, lambda line, command: self.on_command(line, command)
        )
        self._handshake_timeout_s = limits.handshake_timeout_s
        self._linger_s = limits.close_linger_ms / 1000
        self._tasks = Tasks()
        #: 传输还在的，包括认证中的与正在关闭的。
        self._sockets: set[SomeLine] = set()
        #: 其中开始了的 SSE；由应用的服务器（ASGI）握着的 WebSocket，连同还在认证的。
        self.streams: set[SomeLine] = set()
        self.relayed: set[SomeLine] = set()
        self._empty = asyncio.Event()
        self._refusing_with: CloseCode | None = None

    # ── 门 ────────────────────────────────────────────────────────────────

    def origin_allowed(self, handshake: Handshake) -> bool:
        """驱动在升级之前问；False 则回 HTTP 403。"""
        allowed = self.authenticator.origin_allowed(handshake)
        if not allowed:
            self.counters.origins_refused += 1
            self.counters.refusals[FOREIGN_ORIGIN] += 1
        return allowed

    def upgrade_delay_s(self, handshake: Handshake) -> float:
        """驱动在升级之前问：这一次先等多久才回 101；一再被拒绝的、连得太快的才等。"""
        key = self.authenticator.doubt(handshake)
        if key is None:
            return 0.0
        return self.admission.pace.upgrade_delay_s(key, asyncio.get_running_loop().time())

    def _arrive(self, connection: SomeLine) -> bool:
        """登记；节点或地址满了、正在送客则拒绝，返回 False。"""
        self._sockets.add(connection)
        self.counters.connections_opened += 1
        self.heartbeat.welcome(connection)
        room = self.admission.enter(connection.ip_address)
        if self._refusing_with is not None:
            self._refuse(connection, self._refusing_with)
            return False
        if not room:
            self.turn_away(connection, CloseCode.TOO_MANY_CONNECTIONS)
            return False
        return True

    def relay(self, connection: SomeLine) -> None:
        """握着它的是应用的服务器，不是我们自己的驱动：只为数得清。"""
        if connection in self._sockets:
            self.relayed.add(connection)

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
        return await self._verified(connection, handshake, verify)

    async def _verified(
        self,
        connection: SomeLine,
        handshake: Handshake,
        verify: Callable[[Handshake], Awaitable[Principal]],
    ) -> Principal | None:
        try:
            async with asyncio.timeout(self._handshake_timeout_s):
                return await verify(handshake)
        except MeetingPushError as error:
            self._not_verified(connection, error)
            return None
        except asyncio.CancelledError:  # 没有等到结果就走了：不然拿了 101 就走的一次也不算
            self.authenticator.abandoned(handshake)
            raise

    def _not_verified(self, connection: SomeLine, error: MeetingPushError) -> None:
        self.counters.auth_failures += 1
        delay_s = self.admission.failure_delay_s(who_failed(error, connection.ip_address))
        self._refuse(connection, close_code_for(error), delay_s)

    def _refuse(self, connection: SomeLine, code: CloseCode, delay_s: float = 0) -> None:
        self.counters.refusals[code.reason] += 1
        connection.close(code, delay_s)

    def turn_away(self, connection: SomeLine, code: CloseCode) -> None:
        """在门口拒绝；一再来的，晚些才说。"""
        self._refuse(connection, code, self._closing_delay_s(connection))

    def expel(self, connection: SomeLine, code: CloseCode) -> None:
        """请走一条胡来的；一再来的，晚些才说。"""
        connection.close(code, self._closing_delay_s(connection))

    def _closing_delay_s(self, connection: SomeLine) -> float:
        user_id = connection.known_user_id
        key = rate_key(connection.ip_address) if user_id is None else user_id
        return self.admission.closing_delay_s(key)

    def refuse(self, code: CloseCode | None) -> None:
        """此后的新连接一升级就以 ``code`` 关闭；None = 照常接受。"""
        self._refusing_with = code

    # ── LineHost ──────────────────────────────────────────────────────────

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
            self.counters.endings[connection.ending or Ending.ABRUPT] += 1
            self.admission.leave(connection.ip_address)
        if not self._sockets:
            self._empty.set()

    def _depart(self, connection: SomeLine) -> None:
        """要走了：放下它占着的一切；幂等。"""
        task, connection.task = connection.task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        self.streams.discard(connection)
        self.relayed.discard(connection)

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
