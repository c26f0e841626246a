"""放行：节点上有多少连接、每个地址有多少，以及新来的以多快的速度进门；由设置算出的上限。

太快的不拒绝，先等着：重启之后所有客户端一起回来，匀速放进来比让它们反复撞门快（LESSONS 1）。
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from ..limits.rate import RefusalPace, rate_key
from ..protocol.limits import ArrivalLimits, Limits
from ..settings import Settings

#: 事件循环的一圈至多放几个：认证、登记、订阅、读信箱各约 0.1 ms，放得多，这一圈就长，
#: 已经连着的人的每一帧都要等它。
PER_ROUND: Final = 4
#: 浮点误差：桶恰好满一格时不许因它永远差一点。
_EPSILON_S: Final = 1e-6


class Turnstile:
    """令牌桶加一条先进先出的队，一圈至多 ``PER_ROUND`` 个；中途离开的不占名额。"""

    def __init__(self, per_s: float, burst: int, max_waiting: int) -> None:
        self._step_s = 1 / per_s
        self._burst_s = burst / per_s
        self._max_waiting = max_waiting
        #: 桶在这一刻是空的；此后每 ``_step_s`` 多一枚，至多攒 ``_burst_s``。
        self._empty_at = float("-inf")
        self._queue: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._timer: asyncio.Handle | None = None
        #: 这一圈已放了几个。
        self._passed = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def turn(self) -> bool:
        """等到轮到；队已满则 False，没有等。可以取消：取消了就不在队里。"""
        loop = asyncio.get_running_loop()
        if not self._queue and self._take(loop.time()):
            return True
        if len(self._queue) >= self._max_waiting:
            return False
        mine: asyncio.Future[None] = loop.create_future()
        self._queue[mine] = None
        self._arm()
        try:
            await mine
        finally:
            self._queue.pop(mine, None)
        return True

    def _take(self, now: float) -> bool:
        self._empty_at = max(self._empty_at, now - self._burst_s)
        if self._passed >= PER_ROUND or now - self._empty_at < self._step_s - _EPSILON_S:
            return False
        self._empty_at += self._step_s
        if not self._passed:
            asyncio.get_running_loop().call_soon(self._next_round)
        self._passed += 1
        return True

    def _next_round(self) -> None:
        self._passed = 0

    def _arm(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            if self._passed >= PER_ROUND:
                self._timer = loop.call_soon(self._serve)
            else:
                self._timer = loop.call_at(self._empty_at + self._step_s, self._serve)

    def _serve(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._queue and self._take(now):
            mine, _ = self._queue.popitem(last=False)
            if not mine.done():
                mine.set_result(None)
        if self._queue:
            self._arm()


class Admission:
    """每条 socket ``enter`` 一次、``leave`` 一次；``turn`` 在认证之前等。"""

    def __init__(self, limits: ArrivalLimits, pace: RefusalPace | None = None) -> None:
        self._limits = limits
        #: 每扇门共用：换一扇门撞不多得一份。
        self.pace = pace or RefusalPace()
        self._leaving = asyncio.Event()
        self._turnstile = Turnstile(limits.per_s, limits.burst, limits.max_waiting)
        self._sockets = 0
        self._by_address: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """正在等着放行的。"""
        return self._turnstile.waiting

    def enter(self, address: str) -> bool:
        """登记；节点满了或这个地址满了则 False（登记仍算数，直到 ``leave``）。"""
        self._sockets += 1
        key = rate_key(address)
        here = self._by_address[key] = self._by_address.get(key, 0) + 1
        limits = self._limits
        return self._sockets <= limits.per_node and not 0 < limits.per_address < here

    def leave(self, address: str) -> None:
        self._sockets -= 1
        key = rate_key(address)
        left = self._by_address[key] - 1
        if left:
            self._by_address[key] = left
        else:
            del self._by_address[key]

    async def turn(self) -> bool:
        """见 ``Turnstile.turn``。"""
        return await self._turnstile.turn()

    def refusal_delay_s(self, key: Hashable) -> float:
        """又拒绝了一次：过多久再说。``key``：认证过的用户，否则 ``rate_key(地址)``。"""
        return self.pace.delay_s(key, asyncio.get_running_loop().time())

    def closing_delay_s(self, key: Hashable) -> float:
        """同上，升级之后的关闭帧。"""
        return self.pace.closing_delay_s(key, asyncio.get_running_loop().time())

    async def keep_waiting(self, key: Hashable) -> None:
        """同上，等到该说了为止；关机就不等了。"""
        delay_s = self.refusal_delay_s(key)
        if delay_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._leaving.wait()

    def stop_waiting(self) -> None:
        """关机：谁也不必再等。"""
        self._leaving.set()

    def failure_delay_s(self, key: Hashable) -> float:
        """同上，认证没有通过的：总要停一停，也不会步调一致。"""
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 — 抖动不是密码学
        return max(jitter * self._limits.failure_delay_s, self.closing_delay_s(key))


def limits_of(settings: Settings) -> Limits:
    return Limits(
        heartbeat_interval_s=settings.heartbeat_interval_s,
        heartbeat_timeout_s=settings.heartbeat_timeout_s,
        heartbeat_timeout_ms=int(settings.heartbeat_timeout_s * 1000),
        max_frame_bytes=settings.max_frame_bytes,
        max_unacked=settings.max_unacked,
        bad_frame_limit=settings.bad_frame_limit,
        bad_frame_window_ms=int(settings.bad_frame_window_s * 1000),
        outbox_max_bytes=settings.outbox_max_bytes,
        outbox_max_delay_ms=int(settings.outbox_max_delay_s * 1000),
        handshake_timeout_s=settings.handshake_timeout_s,
        close_linger_ms=int(settings.handshake_timeout_s * 1000),
        open_timeout_s=settings.redis_timeout_s * 2,
        arrivals=_arrivals(settings),
        retry_delays_ms=tuple(int(delay * 1000) for delay in settings.retry_delays_s),
    )


def _arrivals(settings: Settings) -> ArrivalLimits:
    return ArrivalLimits(
        per_node=settings.max_connections_per_node,
        per_address=settings.max_connections_per_address,
        per_s=settings.connects_per_s,
        burst=settings.connects_burst,
        max_waiting=int(settings.connects_per_s * settings.connect_wait_s),
        failure_delay_s=settings.auth_failure_delay_s,
    )
