"""谁在问，轮到谁：一个人一下子问很多，别人的一个请求不排在他的全部后面。

同时在办的请求有限；一个人能占几个随此刻有多少人在问而变：独自一人全归他（同一圈里的发送共用一个提交，
不能因此变少），人多了各占一份，在等的按人轮流。请求体收完才领号：发得慢的占不住位子。
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import AbstractAsyncContextManager
from typing import Final, NamedTuple

from fastapi import Request

from ..errors import RateLimitedError
from ..limits.rate import TrustedProxies, WorkPace, rate_key
from .security import address_of

#: ASGI scope 里这个请求的号。
TURN: Final = "meeting_push.turn"
AT_ONCE: Final = 32
#: 人再多，每人也有这么多。
LEAST: Final = 2
YIELD_S: Final = 0.1
THREAD_YIELD_S: Final = 0.01
#: 一个人至多有这么多个读的请求在办、在等（让出了位子的也算）：再多的会排满数据库的连接池，别人都
#: 等到超时。还不认识的合成一个地址，宽些。
MOST_READS: Final = 32
MOST_READS_OF_STRANGERS: Final = 128
#: 别人也在问时，一个人同时来的几个读用了多久就歇几倍，攒着几秒：五十个标签页也只用掉十分之一个核。
READ_REST: Final = 9
READ_CREDIT_S: Final = 0.2
#: 这么久（秒）没有问过的不算在问。
_WINDOW_S: Final = 1.0
#: 办一个大的请求体之后歇它所花的几倍：收下只是一小半，提交（别人的提交排在后面）、送进、挤出信箱
#: 还要几倍，攒着的五万份一起来就是几秒（A4）；仍快过每秒一千份的上限。
LARGE_REST: Final = 40
#: 见 ``LargeTurn``，秒。
MOST_WORK_S: Final = 1.0
#: 登录、注册、刷新的一次拒绝抵别处的几次：费的是一次密码散列，不是一次查表。
DEAR: Final = 10
#: 请求体每这么多字节又抵一次：1 MB 的，收下与丢掉也花工夫（A1）。
BYTES_PER_REFUSAL: Final = 128 * 1024
#: 再长的 ``content-length`` 不是说真的。
_LONGEST_LENGTH: Final = 12
#: 记得多少个通过了认证的令牌；记不得的与陌生人同列，不影响对错。
_KNOWN: Final = 10_000


class Person(NamedTuple):
    """令牌通过了认证的；换几个令牌都是同一个人。"""

    user_id: int


class Turns:
    """一个应用一个。``take`` 可以取消；每次 ``take`` 成功恰好对应一次 ``give_back``。"""

    def __init__(
        self,
        proxies: TrustedProxies | None = None,
        refusal_delay_s: Callable[[Hashable, float], float] | None = None,
        at_once: int = AT_ONCE,
        clock: Callable[[], float] = time.monotonic,
        large: LargeTurns | None = None,
    ) -> None:
        """:param large: 没有的，大的与小的一样办"""
        self.large = large
        self._proxies = proxies or TrustedProxies()
        #: 又拒绝了他一次（抵几次）：这个回答该等多久再给。
        self.refusal_delay_s = refusal_delay_s or _at_once
        self._at_once = at_once
        self._clock = clock
        self._known: OrderedDict[int, Person] = OrderedDict()
        self._read_pace = WorkPace(READ_REST, READ_CREDIT_S)
        self._running: Counter[Hashable] = Counter()
        self._reading: Counter[Hashable] = Counter()
        #: 轮到谁：最前的先；办了一个就排到最后。
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()
        self._seen: set[Hashable] = set()
        self._seen_before: set[Hashable] = set()
        self._since = clock()

    def now(self) -> float:
        return self._clock()

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def key(self, request: Request) -> Hashable:
        """通过过认证的令牌是一个人；其余的，同一个地址的合成一个。"""
        token = request.headers.get("authorization", "")
        if token and (person := self._known.get(hash(token))) is not None:
            return person
        return rate_key(address_of(request, self._proxies))

    def trust(self, request: Request, user_id: int) -> None:
        """这个请求的令牌通过了认证，是他的。"""
        found = hash(request.headers.get("authorization", ""))
        self._known[found] = Person(user_id)
        self._known.move_to_end(found)
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    def begin_reading(self, key: Hashable) -> None:
        """:raises RateLimitedError: 他同时在问的太多；成功则要 ``end_reading``"""
        known = isinstance(key, Person)
        if self._reading[key] >= (MOST_READS if known else MOST_READS_OF_STRANGERS):
            raise RateLimitedError("too many requests at once")
        self._reading[key] += 1

    async def keep_pace(self, key: Hashable) -> bool:
        """读之前；等过没有。独自一人的、问完一个才问下一个的不等。"""
        if self.large is None or self._people < 2 or self._reading[key] < 2:
            return False
        wait_s = self._read_pace.wait_s(key, self._clock())
        if wait_s:
            await asyncio.sleep(wait_s)
        return wait_s > 0

    def end_reading(self, key: Hashable, since: float | None) -> None:
        """:param since: 何时开始办的；没有办的 None"""
        if since is not None:
            self._read_pace.took(key, self._clock() - since)
        self._reading[key] -= 1
        if not self._reading[key]:
            del self._reading[key]

    async def take(self, key: Hashable) -> bool:
        """等过没有。"""
        self._note(key)
        if not self._waiting and self._has_room(key):
            self._running[key] += 1
            return False
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(mine)
        self._serve()
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self.give_back(key)  # 轮到了，可是他走了
            raise
        return True

    def give_back(self, key: Hashable) -> None:
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]
        self._serve()

    def _serve(self) -> None:
        """从头问一遍：有份额的各办一个，办了的排到最后；没有空位就停。"""
        for key in list(self._waiting):
            if self._running.total() >= self._at_once:
                return
            queue = self._waiting[key]
            while queue and queue[0].done():
                queue.popleft()
            if queue and self._has_room(key):
                self._running[key] += 1
                queue.popleft().set_result(None)
                self._waiting.move_to_end(key)
            if not queue:
                del self._waiting[key]

    def _has_room(self, key: Hashable) -> bool:
        if self._running.total() >= self._at_once:
            return False
        return self._running[key] < max(LEAST, self._at_once // max(self._people, 1))

    @property
    def _people(self) -> int:
        """此刻有几个人在问。"""
        return max(len(self._seen), len(self._seen_before))

    def _note(self, key: Hashable) -> None:
        now = self._clock()
        if now - self._since >= _WINDOW_S:
            self._seen_before = self._seen if now - self._since < 2 * _WINDOW_S else set()
            self._seen, self._since = set(), now
        self._seen.add(key)


class LargeTurns:
    """大的请求体（一批一千条、一万个收件人）一次办一个，按人轮流；办完歇它所花的几倍。

    收下、编码、入队都在同一个事件循环上：不歇，一个人上限之内的五万条就是别人的十几秒（A4、A5）。
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._line = Turns(at_once=1, clock=clock)
        self._clock = clock

    async def take(self, key: Hashable) -> LargeTurn:
        """可以取消；成功则办完时要 ``done``。"""
        await self._line.take(key)
        return LargeTurn(functools.partial(self._line.give_back, key), self._clock)


class LargeTurn:
    """轮到的一次。``MOST_WORK_S`` 还没有办完的是在等谁（数据库），后面的不再等它。"""

    def __init__(self, give_back: Callable[[], None], clock: Callable[[], float]) -> None:
        self._give_back = give_back
        self._clock = clock
        self._since = clock()
        self._loop = asyncio.get_running_loop()
        self._overdue: asyncio.TimerHandle | None = self._loop.call_later(
            MOST_WORK_S, self._give_up
        )

    def _give_up(self) -> None:
        self._overdue = None
        self._give_back()

    def done(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._loop.call_later((self._clock() - self._since) * LARGE_REST, self._give_back)


def _at_once(_key: Hashable, _cost: float) -> float:
    """没有人管步调的，立即回答。"""
    return 0


class Turn:
    """一个请求的号：领一次，办完还；没有领的还也无害。

    ``YIELD_S`` 还没有办完的是在等谁（Redis 挂着、提交排着队），不是在算：位子先让出来，一个依赖停住
    就停不住全部。
    """

    def __init__(self, turns: Turns, request: Request, line: str = "") -> None:
        """:param line: 非空：这条路由自己的一队，同一个人（陌生人：同一个地址）的别的请求不在其中；
        办的是线程，``THREAD_YIELD_S`` 就让出位子
        """
        self._turns = turns
        self._request = request
        self._line = line
        self._key: Hashable | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reader: Hashable | None = None
        self._read_since: float | None = None
        self._large: LargeTurn | None = None

    def begin_reading(self) -> None:
        """没有请求体的，领号之前；错误同 ``Turns.begin_reading``。"""
        key = self._turns.key(self._request)
        self._turns.begin_reading(key)
        self._reader = key

    def end(self) -> None:
        self.give_back()
        if self._large is not None:
            self._large.done()
            self._large = None
        if self._reader is not None:
            self._turns.end_reading(self._reader, self._read_since)
            self._reader = None

    async def take(self, large_of: Hashable | None = None) -> bool:
        """等过没有。

        :param large_of: 大的请求是谁的
        """
        waited = False
        if large_of is not None and self._turns.large is not None:
            self._large = await self._turns.large.take(large_of)
        if self._timer is None:
            key = self._turns.key(self._request)
            if self._line:
                key = (key, self._line)
            kept = self._reader is not None and await self._turns.keep_pace(self._reader)
            waited = await self._occupy(key) or kept
            self._read_since = self._turns.now()
        return waited

    async def _occupy(self, key: Hashable) -> bool:
        waited = await self._turns.take(key)
        self._key = key
        yield_s = THREAD_YIELD_S if self._line else YIELD_S
        self._timer = asyncio.get_running_loop().call_later(yield_s, self.give_back)
        return waited

    @contextlib.asynccontextmanager
    async def aside(self) -> AsyncIterator[None]:
        """其间是在等别的：让出位子，等到了再领；已经让出去的不领。"""
        key = self._key
        self.give_back()
        yield
        if key is not None:
            await self._occupy(key)

    @property
    def is_large(self) -> bool:
        """一次办一个的：后面的都等着它。"""
        return self._large is not None

    def refusal_delay_s(self) -> float:
        """拒绝了它：这个回答该等多久再给；送来得多的抵得多。"""
        declared = self._request.headers.get("content-length", "")
        size = int(declared) if declared.isdigit() and len(declared) < _LONGEST_LENGTH else 0
        cost = (DEAR if self._line else 1) + size // BYTES_PER_REFUSAL
        return self._turns.refusal_delay_s(self._turns.key(self._request), cost)

    def give_back(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._key is not None:
            self._turns.give_back(self._key)
            self._key = None


def pause_of(request: Request) -> Callable[[], AbstractAsyncContextManager[None]] | None:
    """收下之前要等投递的，怎样等：让出位子；None = 别等：大的一次办一个，后面的都等着它。"""
    turn: Turn | None = request.scope.get(TURN)
    if turn is None:
        return contextlib.nullcontext
    return None if turn.is_large else turn.aside
