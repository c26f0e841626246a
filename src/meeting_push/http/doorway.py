"""门厅：描述符快用完时谁让位，一个地址占几条 HTTP 连接，没有人读的应答占多少内存，等陌生人多久，
怎样送他们走。

描述符真用完了，uvloop 只会悄悄关掉新来的：没有回答，没有日志，探针也进不来。所以留一些不用：
内核总是给最小的空号，新连接的号码到了 ``ceiling`` 就是快用完了，不必数，别处占的也算在内。
各样期限的说明见 ``docs/security.md``。
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ..limits.rate import RefusalPace, TokenBucket, TrustedProxies, rate_key
from ..logs import RepeatedWarning
from ..settings import EdgeSettings
from .cors import Cors
from .listener import has_left
from .refusals import LINGER_S, REFUSALS

#: 留给探针、SQL 与 Redis 重连的描述符：四分之一，不多于 64 个。
_RESERVED_SHARE: Final = 4
_RESERVED_MOST: Final = 64
_EVICTED_AT_ONCE: Final = 8
#: 正常的客户端一连上就说话。
_SILENT_S: Final = 1.0
_SILENT_TURNS: Final = 3
_DISCARDED_PER_S: Final = 16 * 1024 * 1024

#: 没有到路由就拒绝、掐断的全部原因。
TURNED_AWAY: Final = (
    *(refusal.code for refusal in REFUSALS),
    *("unread", "evicted", "descriptors", "address", "left"),
)


class Guest(Protocol):
    """一条此刻没有在办事的连接。"""

    def evict(self) -> None:
        """掐断；同步，不抛出。"""


class Loop(Protocol):
    """事件循环里用得着的。"""

    def time(self) -> float: ...

    def call_soon(self, callback: Callable[[], None], /) -> object: ...


class _Socket(Protocol):
    def get_extra_info(self, name: str) -> object: ...


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """``ceiling``：号码到了这里就是快用完了；到了 ``wall`` 连探针也不接。0 = 不限。"""

    per_address: int = 0
    ceiling: int = 0
    wall: int = 0

    @classmethod
    def of(cls, per_address: int, descriptors: int) -> DoorLimits:
        """``descriptors`` 是本进程能打开多少个。"""
        reserved = min(_RESERVED_MOST, descriptors // _RESERVED_SHARE)
        ceiling = descriptors - reserved
        return cls(per_address, ceiling, ceiling + reserved // 2)


class Doorway:
    """一个进程一个，它的每个监听者共用。``turned_away`` 按原因计数，只增。"""

    def __init__(
        self,
        limits: DoorLimits,
        proxies: TrustedProxies,
        pace: RefusalPace,
        cors: Cors | None = None,
    ) -> None:
        self.cors = cors or Cors()
        self._limits = limits
        self._proxies = proxies
        self.pace = pace
        self._by_address: dict[str, int] = {}
        #: 值是还没说话的人的地址；说过话的（闲着、赖着）是 None。
        self._waiting: OrderedDict[Guest, str | None] = OrderedDict()
        self._silent: dict[str, OrderedDict[Guest, tuple[float, int]]] = {}
        #: 事件循环的第几圈；没有新来的就不必数。
        self._turn = 0
        self._turning = False
        self._discarding = TokenBucket(_DISCARDED_PER_S, 0)
        self._short = RepeatedWarning("descriptors_nearly_used_up")
        self._full = RepeatedWarning("http_connections_by_address")
        self.turned_away: Counter[str] = Counter()

    # ── 描述符 ────────────────────────────────────────────────────────────

    def crowded(self, transport: _Socket) -> bool:
        """新连接一到就问；True：只回答探针。

        同时请走等得最久的几条（没说完请求的、闲着的、答完了赖着的），下一个就有地方：不说话的
        占不住门。它自己不顶上去：留着的那些只给探针，不然会一条条地占满。
        """
        limits, number = self._limits, _descriptor(transport)
        if not limits.ceiling or number < limits.ceiling:
            return False
        self._short.say(descriptor=number, ceiling=limits.ceiling)
        self.turned_away["descriptors"] += 1
        for _ in range(min(_EVICTED_AT_ONCE, len(self._waiting))):
            self._evict(next(iter(self._waiting)))
        return True

    def walled(self, transport: _Socket) -> bool:
        """留的也用了一半：立即掐断，不回答。"""
        return 0 < self._limits.wall <= _descriptor(transport)

    def note_left(self, count: int = 1) -> None:
        """又有几条，轮到时已经走了。"""
        self.turned_away["left"] += count

    def left(self, transport: asyncio.Transport) -> bool:
        """第一次听它说话时问：已经走了的掐断，不听它说了什么（A14）。"""
        if not has_left(transport):
            return False
        self.note_left()
        transport.abort()
        return True

    def arrive(self, guest: Guest, address: str, loop: Loop) -> None:
        """刚连上，还没说要什么。一个地址的太多，就请走其中等得最久的。

        一整个公司同时重连时，一圈里来几千条，读到最后一条要几秒：说了而没有轮到读的不是一声
        不响，所以不只看钟，还要过了几圈。
        """
        key, now = rate_key(address), loop.time()
        here = self._silent.setdefault(key, OrderedDict())
        here[guest] = (now, self._turn)
        self._waiting[guest] = key
        if not self._turning:
            self._turning = True
            loop.call_soon(self._next_turn)
        if 0 < self._limits.per_address < len(here) and not self._proxies.trusts(address):
            oldest, (since, turn) = next(iter(here.items()))
            if now - since >= _SILENT_S and self._turn - turn >= _SILENT_TURNS:
                self._evict(oldest)

    def _next_turn(self) -> None:
        self._turning = False
        self._turn += 1

    def wait(self, guest: Guest) -> None:
        """``guest`` 此刻没有在办事：答完了，闲着。"""
        self.busy(guest)
        self._waiting[guest] = None

    def busy(self, guest: Guest) -> None:
        """开始办事，或走了；幂等。"""
        key = self._waiting.pop(guest, None)
        if key is not None:
            here = self._silent[key]
            del here[guest]
            if not here:
                del self._silent[key]

    def _evict(self, guest: Guest) -> None:
        self.busy(guest)
        self.turned_away["evicted"] += 1
        guest.evict()

    def may_discard(self, size: int, now: float) -> bool:
        """拒绝了还在灌的：读了丢掉也花 CPU，全进程合起来有限；False = 别再读它，到时掐断。"""
        return self._discarding.take(size, int(now * 1000))

    def refusal_delay_s(self, address: str, forwarded: Sequence[str], now: float) -> float:
        """又拒绝了这个地址（``forwarded``：它的 X-Forwarded-For）一次：过多久再说。"""
        return self.pace.delay_s(rate_key(self._proxies.client_address(address, forwarded)), now)

    # ── 地址 ──────────────────────────────────────────────────────────────

    def enter(self, address: str) -> Callable[[], None] | None:
        """这个地址的一条 HTTP 连接；满了则 None，否则是离开时要调用的。

        可信的代理替别人连，不数它的。
        """
        limit = self._limits.per_address
        if not limit or self._proxies.trusts(address):
            return _nothing
        key = rate_key(address)
        here = self._by_address.get(key, 0)
        if here >= limit:
            self.turned_away["address"] += 1
            self._full.say(address=key, limit=limit)
            return None
        self._by_address[key] = here + 1
        return lambda: self._leave(key)

    def _leave(self, key: str) -> None:
        left = self._by_address[key] - 1
        if left:
            self._by_address[key] = left
        else:
            del self._by_address[key]


def _descriptor(transport: _Socket) -> int:
    sock = transport.get_extra_info("socket")
    return -1 if sock is None else int(sock.fileno())  # type: ignore[attr-defined]  # asyncio 的


def _nothing() -> None:
    """不限的没有什么要撤销。"""


MOST_UNREAD_BYTES: Final = 64 * 1024 * 1024
MOST_UNREAD_PER_ADDRESS: Final = 16 * 1024 * 1024


class SlowReader(Protocol):
    """一条写缓冲在高水位之上的连接。"""

    def cut_off(self) -> None:
        """掐断；同步，不抛出。"""


class UnreadAnswers:
    """超出时掐断占得最多的地址里积压得最久的：读得动的几毫秒就读完了，轮不到它。"""

    def __init__(
        self, most: int = MOST_UNREAD_BYTES, most_per_address: int = MOST_UNREAD_PER_ADDRESS
    ) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._readers: OrderedDict[SlowReader, tuple[str, int]] = OrderedDict()
        self._by_address: Counter[str] = Counter()
        self._total = 0

    @property
    def total(self) -> int:
        return self._total

    def note(self, reader: SlowReader, address: str, size: int) -> None:
        """``reader`` 此刻积压 ``size`` 字节；再次登记不改变它等了多久。"""
        key = rate_key(address)
        self._account(key, size - self._readers.get(reader, (key, 0))[1])
        self._readers[reader] = (key, size)
        while self._by_address[key] > self._most_per_address and self._cut_oldest(key):
            pass
        while self._total > self._most:
            if not self._cut_oldest(max(self._by_address, key=self._by_address.__getitem__)):
                return

    def forget(self, reader: SlowReader) -> None:
        """读走了，或断开了；幂等。"""
        found = self._readers.pop(reader, None)
        if found is not None:
            key, size = found
            self._account(key, -size)

    def _account(self, key: str, size: int) -> None:
        self._total += size
        self._by_address[key] += size
        if not self._by_address[key]:
            del self._by_address[key]

    def _cut_oldest(self, key: str) -> bool:
        """只有一条的不掐：它多大由应答的上限管。"""
        mine = [reader for reader, (whose, _) in self._readers.items() if whose == key]
        if len(mine) < 2:
            return False
        self.forget(mine[0])
        mine[0].cut_off()
        return True


#: 答完之后还听多少，好让回答先到。
MAX_DISCARDED: Final = 16 * 1024 * 1024
DISCARDED_AT_ONCE: Final = 64 * 1024
DISCARD_PAUSE_S: Final = 0.03
#: 应答每半个期限至少走这么多，否则算停住了。
MIN_ANSWER_PROGRESS: Final = 16 * 1024


class CourteousTransport:
    """应答的一方看见的传输；``close`` 交给 ``part``：有礼貌而有期限；其余原样。"""

    def __init__(
        self,
        transport: asyncio.Transport,
        part: Callable[[], None],
        may_discard: Callable[[int, float], bool],
    ) -> None:
        self._transport = transport
        self._part = part
        self._may_discard = may_discard
        self._loop = asyncio.get_running_loop()
        self._discarded = 0
        self._timer: asyncio.TimerHandle | None = None
        self.write: Callable[[Any], None] = transport.write
        self.closed = False

    def close(self) -> None:
        self._part()

    def is_closing(self) -> bool:
        return self.closed or self._transport.is_closing()

    def leave(self, *, heard: bool) -> bool:
        """关上，但让对方先读到回答；赖着不走、不读的，到时掐断。

        ``heard``：对方没有话了，不必再听。True：半关，听着。
        """
        self.closed = True
        half = not heard and self._transport.can_write_eof()
        if half:
            self._transport.write_eof()
        else:
            self._transport.close()
        self._linger(self._transport.get_write_buffer_size())
        return half

    def _linger(self, size: int) -> None:
        self._timer = self._loop.call_later(LINGER_S, self._on_lingering, size)

    def _on_lingering(self, before: int) -> None:
        size = self._transport.get_write_buffer_size()
        if 0 < size <= before - MIN_ANSWER_PROGRESS:
            self._linger(size)
        else:
            self.abort()

    def discard(self, size: int) -> None:
        """对方又说了 ``size`` 字节，没有人要。"""
        self._discarded += size
        if self._discarded > MAX_DISCARDED:
            self.abort()
        elif not self._may_discard(size, self._loop.time()):
            self._transport.pause_reading()
        elif size > DISCARDED_AT_ONCE and not self._transport.is_closing():
            self._transport.pause_reading()  # 读了丢掉也花 CPU：一秒几 MB，不让洪水占住循环
            self._loop.call_later(DISCARD_PAUSE_S, self._listen_on)

    def _listen_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        self.release()
        self._transport.abort()

    def release(self) -> None:
        """连接没有了：还在回答的写到空处；不再回指它，断开的不必等垃圾回收。"""
        self._part = self._transport.close
        self.write = _nowhere
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _nowhere(_data: object) -> None:
    """uvicorn 只告诉最新的一个请求连接断了，管线里前面的还在写。"""


#: 没有任何进展的字节：块扩展、拖尾的名字、请求之间的空行。
MAX_QUIET_BYTES: Final = 16 * 1024
#: 一条连接上排着没有回答的请求；再多的不解析（问了就走的也要花解析的 CPU），答完这些就关。
MAX_PIPELINED: Final = 4
#: 请求体每半个期限至少走这么多，否则算停住了。
MIN_BODY_PROGRESS: Final = 1024
PROBES: Final = frozenset({b"/healthz", b"/readyz"})


@dataclass(frozen=True, slots=True)
class Patience:
    """秒。``body_s`` 是收完的期限：8 MB 在 2 Mbit/s 的线路上要半分钟。"""

    head_s: float = 5.0
    body_idle_s: float = 5.0
    body_s: float = 60.0
    answer_stall_s: float = 5.0
    #: 描述符快用完时的 ``head_s``。
    crowded_head_s: float = 1.0

    @classmethod
    def of(cls, edge: EdgeSettings) -> Patience:
        waiting_s = edge.handshake_timeout_s
        return cls(waiting_s, waiting_s, answer_stall_s=edge.outbox_max_delay_s)
