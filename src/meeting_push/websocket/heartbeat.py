"""心跳与一切到点的事：一次清扫管所有连接，没有每条连接的计时器。

时间轮按“下一次到点”分格，心跳到来时不动轮子（热路径只写一个整数），到格时再看：
真到点就办，没到就挪到新的格子。阻塞与正在关闭的另记一处，每次都看。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

from ..logs import logger
from ..protocol.codes import CloseCode
from ..protocol.commands import Command
from ..protocol.limits import Limits
from ..protocol.line_session import EXPIRY_NOTICE_MS, LineSession
from ..protocol.outbox import Outbox
from ..supervision import periodically

MAX_TICK_S: Final = 1.0
#: 两次清扫相隔超过它（或时钟倒走），是我们停顿过：心跳可能还没读，全体重新计时。
STALL_MS: Final = 5_000


class Swept(Protocol):
    """清扫所管的连接；``slot`` 归清扫。"""

    slot: int | None
    closing_since: int | None
    outbox: Outbox

    @property
    def session(self) -> LineSession: ...

    def close(self, code: CloseCode) -> None: ...

    def abort(self) -> None: ...


SomeSwept = TypeVar("SomeSwept", bound=Swept)


class HeartbeatSweep(Generic[SomeSwept]):
    """``on_command`` 收下 ``Session.tick`` 的产物。"""

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], int],
        on_command: Callable[[SomeSwept, Command], None],
    ) -> None:
        shortest = min(
            limits.heartbeat_timeout_s,
            limits.outbox_max_delay_ms / 1000,
            limits.close_linger_ms / 1000,
            *(delay / 1000 for delay in limits.retry_delays_ms),
        )
        self.tick_s = min(MAX_TICK_S, shortest / 4)
        self._tick_ms = max(1, int(self.tick_s * 1000))
        slots = limits.heartbeat_timeout_ms // self._tick_ms + 3
        first_ms = min(limits.heartbeat_timeout_ms, *limits.retry_delays_ms)
        #: 新来的隔几格头一次看它：那时最早的事才可能到点。
        self._first = min(first_ms // self._tick_ms + 1, slots - 1)
        self._wheel: list[set[SomeSwept]] = [set() for _ in range(slots)]
        self._cursor = 0
        #: 阻塞的与正在关闭的。
        self._attended: set[SomeSwept] = set()
        self._limits = limits
        self._clock = clock
        self._on_command = on_command
        self._swept_at: int | None = None
        self._amnesty = 0

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.sweep, partial(asyncio.sleep, self.tick_s))

    def welcome(self, connection: SomeSwept) -> None:
        """新来的放上轮子。"""
        connection.slot = (self._cursor + self._first) % len(self._wheel)
        self._wheel[connection.slot].add(connection)

    def schedule(self, connection: SomeSwept) -> None:
        """再放一次；令牌换过之后再放一次，到期可能变早。"""
        self._unschedule(connection)
        self._place(connection, self._clock())

    def hasten(self, connection: SomeSwept, at: int) -> None:
        """有一件事 ``at`` 就到期；轮子在那之前本来就会看到它的不必挪。"""
        if at - EXPIRY_NOTICE_MS <= self._clock() + self._limits.heartbeat_timeout_ms:
            self.schedule(connection)

    def attend(self, connection: SomeSwept) -> None:
        self._attended.add(connection)

    def forget(self, connection: SomeSwept) -> None:
        self._attended.discard(connection)
        self._unschedule(connection)

    def _unschedule(self, connection: SomeSwept) -> None:
        if connection.slot is not None:
            self._wheel[connection.slot].discard(connection)
            connection.slot = None

    def sweep(self) -> None:
        """走一格。"""
        now = self._clock()
        self._notice_stall(now)
        for connection in list(self._attended):
            self._guarded(self._attend_to, connection, now)
        self._cursor = (self._cursor + 1) % len(self._wheel)
        due, self._wheel[self._cursor] = self._wheel[self._cursor], set()
        for connection in due:
            connection.slot = None
            self._guarded(self._check, connection, now)

    def _guarded(
        self, work: Callable[[SomeSwept, int], None], connection: SomeSwept, now: int
    ) -> None:
        """一条连接的意外只断开它自己：清扫停下，别人的心跳就没有人看了。"""
        try:
            work(connection, now)
        except Exception as error:  # noqa: BLE001 — 见上
            logger.opt(exception=error).error("sweep_connection_broken")
            self._attended.discard(connection)
            connection.abort()

    def _notice_stall(self, now: int) -> None:
        last, self._swept_at = self._swept_at, now
        if last is not None and not 0 <= now - last <= STALL_MS:
            self._amnesty = now
            logger.bind(since_ms=now - last).warning("sweep_stalled")

    def _check(self, connection: SomeSwept, now: int) -> None:
        if connection.closing_since is not None:
            return
        command = connection.session.tick(now, self._amnesty)
        if command is not None:
            self._on_command(connection, command)
        if connection.closing_since is None:
            unanswered = connection.session.unanswered(now)
            if unanswered is not None:
                self._on_command(connection, unanswered)
            self._place(connection, now)

    def _place(self, connection: SomeSwept, now: int) -> None:
        ticks = (connection.session.next_tick(now) - now) // self._tick_ms + 1
        ticks = min(max(ticks, 1), len(self._wheel) - 1)
        connection.slot = (self._cursor + ticks) % len(self._wheel)
        self._wheel[connection.slot].add(connection)

    def _attend_to(self, connection: SomeSwept, now: int) -> None:
        if connection.closing_since is not None:
            if now - connection.closing_since > self._limits.close_linger_ms:
                connection.abort()
        elif connection.outbox.overdue(now):
            connection.close(CloseCode.SLOW_CONSUMER)
        elif connection.outbox.blocked_since is None:
            self._attended.discard(connection)
