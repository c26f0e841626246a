"""速率：令牌桶（一个，或每个键一个）、拒绝的步调、干活的步调。都不看时钟，``now`` 是毫秒。

以地址为键的：代理后面的客户端是谁（``X-Forwarded-For`` 只从可信的代理那里相信），哪些地址算一个。
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Final

#: 桶能攒下几秒的量：识别器会把几句话一起送来。
BURST_S = 2


class TokenBucket:
    """每秒 ``per_s``，突发至多 ``BURST_S`` 秒的量，但不小于 ``smallest``（再大的永远过不去）。

    ``exact``：桶恰好装得下 ``smallest``，不看 ``per_s``。
    """

    __slots__ = ("_at", "_capacity", "_level", "_per_ms")

    def __init__(self, per_s: float, now: int, smallest: float = 1, *, exact: bool = False) -> None:
        self._per_ms = per_s / 1000
        self._capacity = self._level = smallest if exact else max(per_s * BURST_S, smallest)
        self._at = now

    def has(self, amount: float, now: int) -> bool:
        """此刻够不够；不取。"""
        passed = max(0, now - self._at)  # 时钟倒走不扣
        self._at = now
        self._level = min(self._capacity, self._level + passed * self._per_ms)
        return amount <= self._level

    def take(self, amount: float, now: int) -> bool:
        """不够则 False，一点也不取。"""
        enough = self.has(amount, now)
        if enough:
            self._level -= amount
        return enough

    def wait_ms(self, amount: float, now: int) -> float:
        """再过多久就够了；0 = 此刻就够，``inf`` = 桶装不下这么多。不取。"""
        if self.has(amount, now):
            return 0
        if amount > self._capacity:
            return float("inf")
        return (amount - self._level) / self._per_ms


class KeyedBuckets:
    """每秒 ``per_s``，至多攒下 ``burst``（不少于两秒的量；``exact`` 则恰好这么多）。

    键多于 ``max_keys`` 时忘掉最久没有动静的：宁可少限，也不让攻击者用不断变化的键耗尽内存。
    """

    def __init__(
        self, per_s: float, burst: float, *, max_keys: int = 10_000, exact: bool = False
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._exact = exact
        self._max_keys = max_keys
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def take(self, key: Hashable, now: int, amount: float = 1) -> bool:
        """取 ``amount``；不够则 False，一点也不取。"""
        return self._bucket(key, now).take(amount, now)

    def wait_ms(self, key: Hashable, amount: float, now: int) -> float:
        """同 ``TokenBucket.wait_ms``。"""
        return self._bucket(key, now).wait_ms(amount, now)

    def empty(self, key: Hashable, now: int) -> bool:
        """此刻一个也取不出；不改变什么，没见过的键不留下痕迹。"""
        bucket = self._buckets.get(key)
        return bucket is not None and not bucket.has(1, now)

    def _bucket(self, key: Hashable, now: int) -> TokenBucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(
                self._per_s, now, self._burst, exact=self._exact
            )
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket


class Spacing:
    """每个键每秒 ``per_s`` 个，先来先走；多的排着，至多 ``most_s`` 秒：队再长，也轮得到后来的。"""

    def __init__(self, per_s: float, most_s: float, *, max_keys: int = 10_000) -> None:
        self._step_s = 1 / per_s
        self._most_s = most_s
        self._max_keys = max_keys
        #: 键 → 下一个何时，秒。
        self._next: OrderedDict[Hashable, float] = OrderedDict()

    def wait_s(self, key: Hashable, now_s: float) -> float:
        """为这一个排了队：过这么久轮到。"""
        start = max(self._next.get(key, now_s), now_s)
        if start - now_s >= self._most_s:
            return self._most_s
        self._next[key] = start + self._step_s
        self._next.move_to_end(key)
        if len(self._next) > self._max_keys:
            self._next.popitem(last=False)
        return start - now_s


REFUSALS_PER_S: Final = 50
REFUSALS_BURST: Final = 300
#: 升级之后的关闭帧少给一些：一台设备被拒绝要花一次握手，几百台一起来就是别人的几秒（A11）。
CLOSINGS_PER_S: Final = 10
CLOSINGS_BURST: Final = 30
#: 至多等这么久（contract：5 秒之内回答并关上），至少一半。
REFUSAL_DELAY_S: Final = 4.0
#: 黄金分割：相继的几个等得各不相同，一起来的几百个不会一起再来。
_GOLDEN: Final = 0.618
#: 一个 ``REFUSAL_DELAY_S`` 里至多让这么多个开始等：等着的每个占着一个描述符与几 KB。
MOST_REFUSALS_WAITING: Final = 1_000


class RefusalPace:
    """每扇门问同一个：键是证明了自己的人，还不知道是谁就是地址；只有拒绝才问。"""

    def __init__(
        self,
        per_s: float = REFUSALS_PER_S,
        burst: int = REFUSALS_BURST,
        delay_s: float = REFUSAL_DELAY_S,
        most_waiting: int = MOST_REFUSALS_WAITING,
    ) -> None:
        self._free = KeyedBuckets(per_s, burst, exact=True)
        self._closings = KeyedBuckets(
            min(per_s, CLOSINGS_PER_S), min(burst, CLOSINGS_BURST), exact=True
        )
        self._doubted = Spacing(min(per_s, CLOSINGS_PER_S), delay_s)
        self._delay_s = delay_s
        self._turn = 0.0
        self._places = TokenBucket(most_waiting / delay_s, 0, most_waiting, exact=True)

    def delay_s(self, key: Hashable, now_s: float, cost: float = 1) -> float:
        """又拒绝了他一次：这个回答该等多久再给。等着的已经太多，就不等。

        :param cost: 抵几次
        """
        return self._delay_s * self._share(self._free, key, now_s, cost)

    def closing_delay_s(self, key: Hashable, now_s: float) -> float:
        """同上，升级之后的关闭帧：没有人在等一个 HTTP 回答，再久一倍。"""
        return 2 * self._delay_s * self._share(self._closings, key, now_s)

    def upgrade_delay_s(self, key: Hashable, now_s: float) -> float:
        """一再被拒绝的键又来一次，好坏还不知道：升级之前在它自己的一队里等多久。

        升级之后才等的，等不住拿了 101 就走的人。
        """
        wait_s = self._doubted.wait_s(key, now_s)
        return wait_s if wait_s and self._places.take(1, int(now_s * 1000)) else 0.0

    def _share(self, free: KeyedBuckets, key: Hashable, now_s: float, cost: float = 1) -> float:
        now = int(now_s * 1000)
        if free.take(key, now, cost) or not self._places.take(1, now):
            return 0.0
        self._turn = (self._turn + _GOLDEN) % 1
        return 1 - self._turn / 2


#: 没有办过的，一件先当作这么久，秒。
_FIRST_COST_S: Final = 0.002
#: 一件至多算这么久，秒：再久的是在等谁（数据库挂着），不是在算。
_MOST_COST_S: Final = 0.02
_LEARNT: Final = 0.25


class WorkPace:
    """每个键至多用掉 ``1 / (1 + rest)`` 的时间：办一件用了 t 秒，下一件隔 ``(1 + rest) * t``。

    一件要多久事先不知道：按这个键近来的平均预留，所以几十件一起来的也一件一件地轮到。攒下的
    ``credit_s`` 秒之内不等：打开一页的十来个不必排队。键多于 ``max_keys`` 时忘掉最久没有动静的。
    """

    def __init__(self, rest: float, credit_s: float, *, max_keys: int = 10_000) -> None:
        self._spacing = 1 + rest
        self._credit_s = credit_s
        self._max_keys = max_keys
        #: 键 → [下一件何时, 近来一件多久]，秒。
        self._paces: OrderedDict[Hashable, list[float]] = OrderedDict()

    def wait_s(self, key: Hashable, now_s: float) -> float:
        """为下一件留了位：过这么久再开始。"""
        pace = self._pace(key)
        start = max(pace[0], now_s - self._credit_s)
        pace[0] = start + pace[1] * self._spacing
        return max(0.0, start - now_s)

    def took(self, key: Hashable, seconds: float) -> None:
        pace = self._pace(key)
        pace[1] += (min(seconds, _MOST_COST_S) - pace[1]) * _LEARNT

    def _pace(self, key: Hashable) -> list[float]:
        pace = self._paces.setdefault(key, [0.0, _FIRST_COST_S])
        self._paces.move_to_end(key)
        if len(self._paces) > self._max_keys:
            self._paces.popitem(last=False)
        return pace


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: 至多往回看几跳；再长的是捣乱。
_MAX_HOPS: Final = 32
_IPV6_HOST_BITS: Final = 64


class TrustedProxies:
    """``networks`` 为空（默认）则一律不看这个头，哪怕来自 127.0.0.1。"""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = tuple(networks)

    def client_address(self, peer: str, forwarded: Iterable[str]) -> str:
        """TCP 对方是 ``peer``、头是 ``forwarded``（可有几个）时，客户端的地址。

        从右往左，第一个不是可信代理的就是；它左边的都是对方自己写的。读不懂的一跳到此为止，
        算作写下它的那个代理。
        """
        if not self._networks:
            return peer
        address = _parse(peer)
        if address is None:
            return peer
        for hop in reversed(",".join(forwarded).split(",")[-_MAX_HOPS:]):
            if not self._trusts(address):
                break
            before = _parse(hop)
            if before is None:
                break
            address = before
        return str(address)

    def trusts(self, address: str) -> bool:
        """是不是我们信的代理；读不懂的不是。"""
        if not self._networks:
            return False
        parsed = _parse(address)
        return parsed is not None and self._trusts(parsed)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def rate_key(address: str) -> str:
    """凡以地址为键的上限都用它：IPv4 原样，IPv6 按 /64（一个用户就有整个 /64），映射的还原。

    读不懂的（unix socket 没有地址）原样：同一种说法总是同一个键。
    """
    if ":" not in address:
        return address
    parsed = _parse(address)
    if parsed is None:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    site = int(parsed) >> _IPV6_HOST_BITS << _IPV6_HOST_BITS
    return f"{ipaddress.IPv6Address(site)}/64"


def _parse(text: str) -> Address | None:
    """``1.2.3.4``、``1.2.3.4:80``、``::1``、``[::1]:80``；映射的 IPv4 还原，zone 去掉。"""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped
