"""一条连接上推过什么：哪些 seq，哪些不会再推（DLV-5），广播走到了哪里。

一个用户的 seq 是连续分配的，所以空闲时只占一个整数。
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from ..model import BroadcastEntry, BroadcastView, EvictedRange, MailboxView
from .frames import Gap

#: 底以上最多记几个；超过时放弃最老的洞，那一条留在信箱里，下次连接再补。
MAX_ABOVE: Final = 4096


class SentSeqs:
    """``floor`` 及以下的都算推过（或无需推）。"""

    __slots__ = ("above", "floor")

    def __init__(self) -> None:
        self.floor = 0
        #: 底以上零散的；空集合要 216 字节，所以没有时是 None。
        self.above: set[int] | None = None

    def __contains__(self, seq: int) -> bool:
        return seq <= self.floor or (self.above is not None and seq in self.above)

    def add(self, seq: int) -> bool:
        """记下 ``seq``；已有则返回 False。"""
        if seq == self.floor + 1:
            self.floor = seq
            if self.above is not None:
                self._absorb(self.above)
            return True
        if seq in self:
            return False
        if self.above is None:
            self.above = set()
        self.above.add(seq)
        if len(self.above) > MAX_ABOVE:
            self.settle(min(self.above))
        return True

    def settle(self, seq: int) -> None:
        """``seq`` 及以下的从此都算推过。"""
        if seq <= self.floor:
            return
        self.floor = seq
        if self.above is not None:
            self.above = {each for each in self.above if each > seq}
            self._absorb(self.above)

    def _absorb(self, above: set[int]) -> None:
        while self.floor + 1 in above:
            self.floor += 1
            above.remove(self.floor)
        if not above:
            self.above = None


class Announced:
    """一条连接上说到了哪里：一个洞只说一次，说过不来的就不再来。"""

    __slots__ = ("_ranges", "upto")

    def __init__(self, upto: int = 0) -> None:
        #: 到它为止的都已推、在推，或已宣告。
        self.upto = upto
        self._ranges: list[tuple[int, int]] | None = None  # 几乎没有人有洞

    def __contains__(self, seq: int) -> bool:
        return any(low <= seq <= high for low, high in self._ranges or ())

    def take(self, view: MailboxView, sent: SentSeqs) -> list[Gap]:
        """``view`` 里要宣告的，按 seq；此后算说过了。"""
        found = list(gaps(view, self.upto, sent))
        self.upto = view.seq
        if found:
            self._ranges = [*(self._ranges or ()), *((gap.from_seq, gap.to_seq) for gap in found)]
        return found


def gaps(view: MailboxView, told: int, sent: SentSeqs) -> Iterator[Gap]:
    """``view`` 里要向这条连接宣告的洞，按 seq，互不重叠；范围里绝不夹着还会来的。

    推过的不算洞，过期了、被挤出信箱也已到手；``told`` 及以下的宣告过了。
    """
    live = {entry.seq for entry in view.entries}.union(view.unreadable)
    gone = dict.fromkeys(view.expired, "expired") | dict.fromkeys(view.evicted, "evicted")
    gone = {s: r for s, r in gone.items() if s > told and s not in sent and s not in live}
    low, older = max(told, sent.floor), view.evicted_before
    if older is None or older.to_seq <= low:
        yield from _runs(gone, live)
        return
    first = max(older.from_seq, low + 1)
    yield from _runs({s: r for s, r in gone.items() if s < first}, live)
    yield from _older(older, first, gone, live)
    yield from _runs({s: r for s, r in gone.items() if s > older.to_seq}, live)


def _runs(gone: Mapping[int, str], live: Collection[int]) -> Iterator[Gap]:
    """``gone`` 里同一个原因连成的；中间确认过的算在范围里，还会来的、别的原因的把它隔开。"""
    run: list[int] = []
    for seq in sorted({*gone, *live}):
        if run and gone.get(seq) != gone[run[-1]]:
            yield _gap(run, gone[run[-1]])
            run = []
        if seq in gone:
            run.append(seq)
    if run:
        yield _gap(run, gone[run[-1]])


def _older(
    older: EvictedRange, first: int, gone: Mapping[int, str], live: Collection[int]
) -> Iterator[Gap]:
    """只记得范围与条数的：在还会来的地方断开。这段里过期了的也算在内：一个 seq 只说一次。"""
    left = older.count
    edges = sorted(seq for seq in live if first <= seq <= older.to_seq)
    for low, high in zip([first, *(e + 1 for e in edges)], [*edges, older.to_seq + 1], strict=True):
        inside = sum(low <= seq < high for seq in gone)
        count = min(inside + left, high - low)
        if count > 0:
            left -= max(0, count - inside)
            yield Gap(from_seq=low, to_seq=high - 1, count=count, reason="evicted")


def _gap(run: list[int], reason: str) -> Gap:
    return Gap(from_seq=run[0], to_seq=run[-1], count=len(run), reason=reason)


class News:
    """一条连接上的广播走到了哪里：与 seq 的账无关，日志的次序就是发布的次序，一个整数就够。"""

    __slots__ = ("_behind", "_waiting", "upto")

    def __init__(self) -> None:
        #: 推过（或无需推）到广播日志的哪里；None = 还没读过游标。
        self.upto: int | None = None
        #: 读到了、等着和信箱一起补发的。
        self._waiting: tuple[BroadcastEntry, ...] = ()
        self._behind = False

    def fall_behind(self) -> None:
        """也许漏过，还没轮到它重读：此后实时到的先不推，重读时连同漏掉的一起补。"""
        self._behind = True

    def read(self, view: BroadcastView) -> None:
        """要补发 ``view`` 里的；此后实时到的从 ``view.upto`` 之后算起。"""
        self.upto = view.upto
        self._behind = False
        self._waiting += view.entries

    def take(self) -> tuple[BroadcastEntry, ...]:
        waiting, self._waiting = self._waiting, ()
        return waiting

    def fresh(self, broadcast_id: int) -> bool:
        """还没推过，现在就该推：记账。"""
        if self._behind or (self.upto is not None and broadcast_id <= self.upto):
            return False
        self.upto = broadcast_id
        return True
