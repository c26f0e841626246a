"""一个人能发多少：超出了限额的拒绝，超出了他那一份的慢慢来。纯的，``now`` 是毫秒。

限额：先算价，再整个取走或一点不取。账每个进程各记，从不问 Redis；管理员与应用自己不记。

份额：发送者之间怎样分，洪水只推迟发洪水的人（LESSONS 34）。
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from ..errors import SendLimitError, TooExpensiveError
from ..model import URGENT_PRIORITY, Draft, KeyPrincipal, Outgoing, Principal
from ..person_id import PersonId
from .rate import KeyedBuckets

UNIT_BYTES: Final = 1024
#: 紧急的只有总额的这么多分之一：人人都紧急，就没有人紧急。
URGENT_SHARE: Final = 10


class Cost(NamedTuple):
    """一次请求的价钱；``urgent`` 是其中紧急（优先级 5–9）的那部分。"""

    units: int
    urgent: int


class Priced(Protocol):
    """检查之前就看得出价钱的。"""

    @property
    def recipient_ids(self) -> Collection[PersonId]: ...
    @property
    def title(self) -> str: ...
    @property
    def content(self) -> str: ...
    @property
    def priority(self) -> int: ...


def cost_of(drafts: Iterable[Draft]) -> Cost:
    """收件人每人一份，正文（标题、内容、``data``）每满 1 KB 再一份。"""
    return _sum((_units(draft), draft.priority) for draft in drafts)


def least_cost_of(drafts: Iterable[Priced], burst: float = math.inf) -> Cost:
    """``cost_of`` 不会更少：``data`` 不算，一个字符至少一个字节；重复的收件人只算一次。

    过了 ``burst`` 就不再数：等多久都付不起。
    """
    return _sum(
        (
            (
                len(set(draft.recipient_ids))
                + (len(draft.title) + len(draft.content)) // UNIT_BYTES,
                draft.priority,
            )
            for draft in drafts
        ),
        burst,
    )


def _sum(priced: Iterable[tuple[int, int]], most: float = math.inf) -> Cost:
    units = urgent = 0
    for price, priority in priced:
        units += price
        urgent += price if priority >= URGENT_PRIORITY else 0
        if units > most:
            break
    return Cost(units, urgent)


def _units(draft: Draft) -> int:
    size = len(draft.title.encode()) + len(draft.content.encode())
    if draft.data is not None:
        size += len(msgspec.json.encode(draft.data))
    return len(draft.recipient_ids) + size // UNIT_BYTES


class SendLimits:
    """每个用户两只桶：全部的，紧急的。"""

    def __init__(self, per_s: float, burst: float) -> None:
        self.burst = burst
        self._all = KeyedBuckets(per_s, burst, exact=True)
        urgent_burst = max(1, burst / URGENT_SHARE)
        self._urgent = KeyedBuckets(per_s / URGENT_SHARE, urgent_burst, exact=True)

    def take(self, user_id: int, cost: Cost, now: int) -> None:
        """两只桶都够才取；错误同 ``look``。"""
        self.look(user_id, cost, now)
        self._urgent.take(user_id, now, cost.urgent)
        self._all.take(user_id, now, cost.units)

    def look(self, user_id: int, cost: Cost, now: int) -> None:
        """两只桶此刻够不够；不取。

        :raises TooExpensiveError: 比桶还大，等多久都不行
        :raises SendLimitError: 此刻不够；``limit`` 说是哪一只桶
        """
        if cost.units > self.burst:
            raise TooExpensiveError(cost.units, self.burst)
        for limit, buckets, amount in (
            ("priority", self._urgent, cost.urgent),
            ("sends", self._all, cost.units),
        ):
            wait_ms = buckets.wait_ms(user_id, amount, now)
            if wait_ms > 0:
                raise _refusal(limit, wait_ms)


def _refusal(limit: str, wait_ms: float) -> SendLimitError:
    """``inf``：比紧急的那只桶还大。照样是 429（契约），但说明重来无用：要分开发。"""
    if math.isinf(wait_ms):
        return SendLimitError(limit, 1, temporary=False)
    return SendLimitError(limit, max(1, math.ceil(wait_ms / 1000)), temporary=True)


#: 把检查过的草稿记在账上；不够则抛出 ``SendLimitError``、``TooExpensiveError``。
Charge = Callable[[Sequence[Draft]], None]


class SendQuota:
    """谁的令牌发了多少，记在谁账上：每个进程各记，从不问 Redis。管理员与应用自己不记。

    ``per_s`` 为 0：谁也不记。API 密钥另有 ``per_key_per_s``，替谁发都记在密钥名下。
    """

    def __init__(
        self, per_s: float, burst: float, *, clock: Callable[[], int], per_key_per_s: float = 0
    ) -> None:
        self._people = SendLimits(per_s, burst) if per_s else None
        burst = max(burst, per_key_per_s)
        self._keys = SendLimits(per_key_per_s, burst) if per_key_per_s else None
        self._clock = clock
        #: 拒绝了几次请求。
        self.refused = 0

    def charge(self, user: Principal) -> Charge | None:
        """他的账；不记账的人没有。"""
        limits = self._limits_of(user)
        if limits is None:
            return None
        return lambda drafts: self._take(limits, user, cost_of(drafts))

    def glance(self, user: Principal, drafts: Iterable[Priced]) -> None:
        """还没有逐条检查就知道的最低价。付不起的不必再看：检查几万个收件人也花工夫（A5）。"""
        limits = self._limits_of(user)
        if limits is not None:
            cost = least_cost_of(drafts, limits.burst)
            self._counted(lambda: limits.look(user.user_id, cost, self._clock()))

    def charge_recipients(self, user: Principal, user_ids: Iterable[PersonId]) -> None:
        """他让这些人各得一条通知。"""
        limits = self._limits_of(user)
        if limits is not None:
            self._take(limits, user, Cost(len(set(user_ids)), 0))

    def _limits_of(self, user: Principal) -> SendLimits | None:
        """不记账的没有。"""
        if isinstance(user, KeyPrincipal):
            return self._keys
        return None if self._people is None or user.is_admin else self._people

    def _take(self, limits: SendLimits, user: Principal, cost: Cost) -> None:
        self._counted(lambda: limits.take(user.user_id, cost, self._clock()))

    def _counted(self, ask: Callable[[], None]) -> None:
        try:
            ask()
        except (SendLimitError, TooExpensiveError):
            self.refused += 1
            raise


# ── 发送者之间 ───────────────────────────────────────────────────────────────

#: 轮到一个发送者，他至少得到这么多份（收件人，正文每 ``BYTES_PER_SHARE``）。
QUANTUM: Final = 500
#: 一批 5,000 份的正文至多约 1 MB：编码、压缩、发出时都另有一份。
BYTES_PER_SHARE: Final = 200
#: 欠下的至多是这么多秒的份额：洪水停了，这么久之后他又和别人一样。
MAX_DEBT_S: Final = 10
#: 至多记得这么多个发送者；忘掉最久没有动静的。
MAX_SENDERS: Final = 10_000


class FairShares:
    """每个发送者每秒 ``per_s`` 份，攒得下 ``burst`` 份；超出的照记，还清之前都算超出。

    照记才不乱：一直快一倍的人全在慢的那条上，而不是一条快一条慢、自己超过自己。
    """

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_ms = per_s / 1000
        self._burst = burst
        self._debt = per_s * MAX_DEBT_S
        #: 发送者 → (余下几份，何时算的)
        self._levels: OrderedDict[int, tuple[float, int]] = OrderedDict()

    def spend(self, sender_id: int, cost: int, now: int) -> bool:
        """记下这一笔；False = 超出了他的一份。"""
        level = self._level(sender_id, now)
        within = cost <= level
        self._levels[sender_id] = (max(level - cost, -self._debt), now)
        self._levels.move_to_end(sender_id)
        if len(self._levels) > MAX_SENDERS:
            self._levels.popitem(last=False)
        return within

    def exceeded(self, sender_id: int, now: int) -> bool:
        """此刻他的下一条会不会超出。"""
        return self._level(sender_id, now) < 1

    def _level(self, sender_id: int, now: int) -> float:
        level, at = self._levels.get(sender_id, (self._burst, now))
        return min(self._burst, level + max(0, now - at) * self._per_ms)


class FairLine:
    """等着入队的：各发送者自己的排成一列，轮流来。"""

    def __init__(self) -> None:
        self._lines: OrderedDict[int, deque[Outgoing]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def of(self, sender_id: int) -> int:
        """他有几条在等。"""
        return len(self._lines.get(sender_id, ()))

    def append(self, outgoing: Outgoing) -> None:
        self._lines.setdefault(outgoing.message.account, deque()).append(outgoing)
        self._count += 1

    def extend(self, outgoing: Iterable[Outgoing]) -> None:
        for item in outgoing:
            self.append(item)

    def take(self, messages: int, units: int) -> list[Outgoing]:
        """至多 ``messages`` 条，到 ``units`` 份为止；每人轮到一次给 ``QUANTUM`` 份。"""
        taken: list[Outgoing] = []
        size = 0
        while self._lines and len(taken) < messages and size < units:
            sender_id, line = self._lines.popitem(last=False)
            share = 0
            while line and share < min(QUANTUM, units - size) and len(taken) < messages:
                taken.append(line.popleft())
                share += _shares_of(taken[-1])
            size += share
            if line:
                self._lines[sender_id] = line
        self._count -= len(taken)
        return taken

    def clear(self) -> None:
        self._lines.clear()
        self._count = 0


def _shares_of(outgoing: Outgoing) -> int:
    return len(outgoing.recipient_ids) + len(outgoing.message.content) // BYTES_PER_SHARE
