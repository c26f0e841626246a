"""放行：节点上有多少连接、每个地址有多少，以及新来的以多快的速度进门；由设置算出的上限。

太快的不拒绝，先等着：重启之后所有客户端一起回来，匀速放进来比让它们反复撞门快（LESSONS 1）。

握手的速率按地址、按用户，以及按地址的认证失败；只在本节点内数，内存有上限。地址的额度只挡没有证明
自己是谁的：一个地址后面可能是整个公司，其中一个人灌握手，别人带着有效的令牌照样进得来（他们各有自己的
额度）。
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Final

from ..clock import now_ms
from ..errors import ForbiddenError, InvalidTokenError, MeetingPushError, RateLimitedError
from ..limits.rate import KeyedBuckets, RefusalPace, rate_key
from ..logs import MANY, RepeatedWarning
from ..model import Principal
from ..person_id import PersonId
from ..protocol.limits import ArrivalLimits, Limits
from ..settings import (
    AdmissionSettings,
    DeliverySettings,
    EdgeSettings,
    HandshakeSettings,
    RedisSettings,
)
from ..supervision import woken

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
        self._queue: OrderedDict[Hashable, Callable[[], None]] = OrderedDict()
        self._timer: asyncio.Handle | None = None
        #: 这一圈已放了几个。
        self._passed = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def queue(self, guest: Hashable, let_in: Callable[[], None]) -> bool:
        """轮到时调用 ``let_in``（不得抛出），此刻就轮到则当场；队已满则 False。"""
        if not self._queue and self._take(asyncio.get_running_loop().time()):
            let_in()
            return True
        if len(self._queue) >= self._max_waiting:
            return False
        self._queue[guest] = let_in
        self._arm()
        return True

    def leave(self, guest: Hashable) -> None:
        """不等了；不在队里的无事发生。"""
        self._queue.pop(guest, None)

    async def turn(self) -> bool:
        """等到轮到；队已满则 False，没有等。可以取消：取消了就不在队里。"""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self.queue(mine, partial(_let_in, mine)):
            return False
        try:
            await mine
        finally:
            self.leave(mine)
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
            _, let_in = self._queue.popitem(last=False)
            let_in()
        if self._queue:
            self._arm()


def _let_in(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class Deadlines:
    """同样长的期限共用一个计时器：先开始的先到期。到期时调用 ``late``（同步，不得抛出）。

    每条连接几个，事件循环的计时器一个约 3 µs，这里是字典的一项。
    """

    def __init__(self, seconds: float, late: Callable[[Any], None]) -> None:
        self._seconds = seconds
        self._late = late
        self._ends: dict[Hashable, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self, who: Hashable) -> None:
        loop = asyncio.get_running_loop()
        self._ends[who] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._expire)

    def stop(self, who: Hashable) -> None:
        """幂等。"""
        self._ends.pop(who, None)

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._ends:
            who, end = next(iter(self._ends.items()))
            if end > loop.time() + _EPSILON_S:
                self._timer = loop.call_at(end, self._expire)
                return
            del self._ends[who]
            self._late(who)


class Places:
    """至多 ``most`` 个同时在里面，先来先进；等着的可以是回调，也可以是任务。"""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: deque[Callable[[], None]] = deque()

    def enter(self, start: Callable[[], None]) -> None:
        """有地方时调用 ``start``，此刻就有则当场；它在里面，直到 ``leave``。"""
        if self._free:
            self._free -= 1
            start()
        else:
            self._waiting.append(start)

    def once(self) -> Callable[..., None]:
        """``leave``，再来几次也只算一次。"""
        left = False

        def leave(*_args: object) -> None:
            nonlocal left
            if not left:
                left = True
                self.leave()

        return leave

    def leave(self) -> None:
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._free += 1

    async def __aenter__(self) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.enter(partial(self._start, mine))
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # 同一刻轮到了
                self.leave()
            raise

    async def __aexit__(self, *_exc: object) -> None:
        self.leave()

    def _start(self, waiting: asyncio.Future[None]) -> None:
        if waiting.done():  # 不等了
            self.leave()
        else:
            waiting.set_result(None)


class Admission:
    """每条 socket ``enter`` 一次、``leave`` 一次；``turn`` 在认证之前等。"""

    def __init__(self, limits: ArrivalLimits, pace: RefusalPace | None = None) -> None:
        self._limits = limits
        #: 每扇门共用：换一扇门撞不多得一份。
        self.pace = pace or RefusalPace()
        self._leaving = asyncio.Event()
        self._turnstile = Turnstile(limits.per_s, limits.burst, limits.max_waiting)
        self.turn, self.queue = self._turnstile.turn, self._turnstile.queue
        self.unqueue = self._turnstile.leave
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

    def refusal_delay_s(self, key: Hashable, cost: float = 1) -> float:
        """又拒绝了一次，抵 ``cost`` 次：过多久再说。

        ``key``：认证过的用户，否则 ``rate_key(地址)``。
        """
        return self.pace.delay_s(key, asyncio.get_running_loop().time(), cost)

    def closing_delay_s(self, key: Hashable) -> float:
        """同上，升级之后的关闭帧。"""
        return self.pace.closing_delay_s(key, asyncio.get_running_loop().time())

    async def keep_waiting(self, key: Hashable) -> None:
        """``refusal_delay_s``，等到该说了为止。"""
        await self.pause(self.refusal_delay_s(key))

    async def pause(self, delay_s: float) -> None:
        """关机就不等了。"""
        if delay_s:
            await woken(self._leaving, delay_s)

    def stop_waiting(self) -> None:
        """关机：谁也不必再等。"""
        self._leaving.set()

    def failure_delay_s(self, key: Hashable) -> float:
        """同上，认证没有通过的：总要停一停，也不会步调一致。"""
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 — 抖动不是密码学
        return max(jitter * self._limits.failure_delay_s, self.closing_delay_s(key))


#: 同一个地址被限速，十秒至多记一行：日志不能成为放大器。
_LOGS_PER_S: Final = 0.1
#: 一个人连得太快，这么久（毫秒）之内他的握手先看令牌；至多记得这么多个人。
_HASTY_MS: Final = 1_000
_MOST_HASTY: Final = 1_000
#: 过期与吊销的令牌是我们签过的，不是猜的：睡醒的标签页不该连累同一个地址的别人。
_GUESSES: Final = (InvalidTokenError, ForbiddenError)


class HastyUserError(RateLimitedError):
    """令牌是真的，只是这个人连得太快：算在他头上，不算在他的地址头上。"""

    def __init__(self, user_id: int) -> None:
        super().__init__("too many connections in a short time")
        self.user_id = user_id


class HandshakeLimits:
    """由 ``Authenticator`` 使用。"""

    def __init__(self, settings: HandshakeSettings, clock: Callable[[], int] = now_ms) -> None:
        self._clock = clock
        self._addresses = KeyedBuckets(
            settings.handshakes_per_address_per_s, settings.handshakes_per_address_burst
        )
        self._users = KeyedBuckets(
            settings.handshakes_per_user_per_s, settings.handshakes_per_user_burst
        )
        self._failures = KeyedBuckets(
            settings.auth_failures_per_address_per_s, settings.auth_failures_per_address_burst
        )
        #: 刚刚连得太快的人 → 记到何时；最久没有动静的在前。
        self._hasty: dict[PersonId, int] = {}
        self._log_turns = KeyedBuckets(_LOGS_PER_S, 1)
        self._limited = RepeatedWarning("rate_limited", lines=MANY)

    def suspects(self, address: str) -> bool:
        """这个地址的陌生人此刻已超出额度：他们不许排队占住门；带着有效令牌的也就不必排。"""
        now, key = self._clock(), rate_key(address)
        return self._addresses.empty(key, now) or self._failures.empty(key, now)

    def check_stranger(self, address: str) -> None:
        """认证没有通过之后问。

        :raises RateLimitedError: 这个地址的陌生人来得太快，或失败得太多
        """
        now, key = self._clock(), rate_key(address)
        limit = None
        if not self._addresses.take(key, now):
            limit = "handshakes_by_address"
        elif self._failures.empty(key, now):
            limit = "auth_failures_by_address"
        if limit is not None:
            self._log(limit, address, key, now)
            raise RateLimitedError("too many connections in a short time")

    def check_user(self, principal: Principal, address: str) -> None:
        """验证令牌之后：没有令牌的人用不完别人的额度。

        :raises HastyUserError: 这个用户连得太快
        """
        now, user_id = self._clock(), principal.user_id
        if self._users.take(user_id, now):
            return
        self._hasty.pop(principal.person, None)
        self._hasty[principal.person] = now + _HASTY_MS
        if len(self._hasty) > _MOST_HASTY:
            del self._hasty[next(iter(self._hasty))]
        self._log("handshakes_by_user", address, user_id, now)
        raise HastyUserError(user_id)

    def hurries(self, person: PersonId) -> bool:
        """他刚刚连得太快；0（路径上没有人）：有没有谁是这样。"""
        if not self._hasty:
            return False
        newest = next(reversed(self._hasty.values()))
        return self._hasty.get(person, 0 if person else newest) > self._clock()

    def spent(self, user_id: int) -> bool:
        """他此刻的额度用完了；不取。"""
        return self._users.empty(user_id, self._clock())

    def failed(self, address: str, error: MeetingPushError) -> None:
        """认证没有通过。"""
        if isinstance(error, _GUESSES):
            self._failures.take(rate_key(address), self._clock())

    def _log(self, limit: str, address: str, key: Hashable, now: int) -> None:
        if self._log_turns.take((limit, key), now):
            self._limited.say(limit=limit, key=key, ip_address=address)


def limits_of(
    edge: EdgeSettings,
    admission: AdmissionSettings,
    delivery: DeliverySettings,
    redis: RedisSettings,
) -> Limits:
    return Limits(
        heartbeat_interval_s=edge.heartbeat_interval_s,
        heartbeat_timeout_s=edge.heartbeat_timeout_s,
        heartbeat_timeout_ms=int(edge.heartbeat_timeout_s * 1000),
        max_frame_bytes=edge.max_frame_bytes,
        max_unacked=edge.max_unacked,
        bad_frame_limit=edge.bad_frame_limit,
        bad_frame_window_ms=int(edge.bad_frame_window_s * 1000),
        outbox_max_bytes=edge.outbox_max_bytes,
        outbox_max_delay_ms=int(edge.outbox_max_delay_s * 1000),
        handshake_timeout_s=edge.handshake_timeout_s,
        close_linger_ms=int(edge.handshake_timeout_s * 1000),
        open_timeout_s=redis.timeout_s * 2,
        arrivals=_arrivals(admission),
        retry_delays_ms=tuple(int(delay * 1000) for delay in delivery.retry_delays_s),
    )


def _arrivals(admission: AdmissionSettings) -> ArrivalLimits:
    return ArrivalLimits(
        per_node=admission.max_connections_per_node,
        per_address=admission.max_connections_per_address,
        per_s=admission.connects_per_s,
        burst=admission.connects_burst,
        max_waiting=int(admission.connects_per_s * admission.connect_wait_s),
        failure_delay_s=admission.auth_failure_delay_s,
    )
