"""管理员在自己的用户连接上看整个系统此刻的数：有人看才算，一个进程每秒至多算一次，大家共用一帧。

瞬时的：写不出去的就丢，下一份更新；连接断了就完了。换来的令牌不再是管理员的，也完了。
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from ..clock import Clock, now_ms
from ..errors import ForbiddenError, RateLimitedError
from ..logs import RepeatedWarning
from ..protocol.frames import Ops, encode
from ..supervision import periodically, woken
from .line import UserConnection

#: 此刻的数，JSON；形状同 ``GET /stats``。
Snapshot = Callable[[], Awaitable[bytes]]

#: 一个进程里至多这么多条连接在看：一帧几十 KB。
MAX_WATCHERS: Final = 20
#: 两次快照至少隔这么久；一条连接改间隔也是。
SHORTEST_MS: Final = 1_000


@dataclass(slots=True)
class _Watcher:
    every_ms: int
    asked_at: int
    due_at: int


async def _nothing() -> bytes:
    return b"{}"


class OpsFeed:
    """``run`` 须由监督者一直运行；其余同步。"""

    def __init__(self, clock: Clock = now_ms) -> None:
        self._clock = clock
        self._snapshot: Snapshot = _nothing
        self._watchers: dict[UserConnection, _Watcher] = {}
        self._wanted = asyncio.Event()
        self._taken_at = -SHORTEST_MS
        self._deferred = RepeatedWarning("ops_feed_deferred")
        #: 算过几次，只增。
        self.snapshots = 0

    def provide(self, snapshot: Snapshot) -> None:
        """数从哪里来；那一间在后面，组装时才相识。"""
        self._snapshot = snapshot

    @property
    def watching(self) -> int:
        return len(self._watchers)

    def watch(self, connection: UserConnection, every_s: int) -> None:
        """从此每 ``every_s`` 秒一帧，头一帧马上；再来一次是改间隔。

        :raises ForbiddenError: 不是管理员
        :raises RateLimitedError: 看的人太多，或改得太勤
        """
        if not _may(connection):
            raise ForbiddenError("only administrators may watch operations")
        now, known = self._clock(), self._watchers.get(connection)
        if known is None and len(self._watchers) >= MAX_WATCHERS:
            raise RateLimitedError("too many connections watch operations already")
        if known is not None and 0 <= now - known.asked_at < SHORTEST_MS:
            raise RateLimitedError("once a second is often enough")
        self._watchers[connection] = _Watcher(every_s * 1_000, now, now)
        self._wanted.set()

    def forget(self, connection: UserConnection) -> None:
        """不看了，或断了；没有在看也无害。"""
        self._watchers.pop(connection, None)

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.step, self._pause, self._deferred)

    async def _pause(self) -> None:
        """没有人看就一直睡；有人新来，也不比上一份早一秒。"""
        await woken(self._wanted, SHORTEST_MS / 1_000 if self._watchers else None)
        left_ms = self._taken_at + SHORTEST_MS - self._clock()
        if 0 < left_ms <= SHORTEST_MS:
            await asyncio.sleep(left_ms / 1_000)

    async def step(self) -> None:
        """给到时的人一帧；没有到时的不算。

        :raises UnavailableError: 此刻算不出；他们等下一次
        """
        self._wanted.clear()
        for connection in [each for each in self._watchers if not _may(each)]:
            self.forget(connection)
        now = self._clock()
        due = [each for each, watcher in self._watchers.items() if watcher.due_at <= now]
        if not due:
            return
        self._taken_at = now
        stats = await self._snapshot()
        self.snapshots += 1
        frame = encode(Ops(at=self._clock(), stats=msgspec.Raw(stats)))
        for connection in due:
            self._give(connection, frame, now)

    def _give(self, connection: UserConnection, frame: bytes, now: int) -> None:
        watcher = self._watchers.get(connection)
        if watcher is not None:  # 算的时候也许走了
            # 按自己的拍子，略早一点也算到时：循环每秒一次，不准
            watcher.due_at = now + watcher.every_ms - SHORTEST_MS // 2
            connection.offer_or_drop(frame, now)


def _may(connection: UserConnection) -> bool:
    principal = connection.principal
    return principal is not None and principal.is_admin
