"""一条连接上推过什么：哪些 seq，哪些不会再推（DLV-5），广播走到了哪里，哪些还没有确认。

一个用户的 seq 是连续分配的，所以空闲时只占一个整数。

早该有确认而没有的要重试：第 n 次推送（0 是首推）之后等 ``delays[n]``，最后一次重试之后再等一次
``delays[-1]``。一级一个按时间先后的 dict：同一级等的时间相同，只看最老的一个就知道有没有到点的。
首推的那一级就是会话的未确认表，热路径不为重试做任何事。时间都是毫秒。
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from ..mailbox_model import EvictedRange, MailboxView
from ..model import BroadcastEntry, BroadcastView
from .envelope import BroadcastId, FrameKey
from .frames import Gap
from .limits import Limits

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
        nothing = not view.expired and not view.evicted and view.evicted_before is None
        found = [] if nothing else list(gaps(view, self.upto, sent))
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


class BroadcastProgress:
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

    def fresh(self, broadcast_id: BroadcastId) -> bool:
        """还没推过，现在就该推：记账。"""
        if self._behind or (self.upto is not None and broadcast_id <= self.upto):
            return False
        self.upto = broadcast_id
        return True


#: 一次清扫里一条连接至多交出这么多，余下的下一格再来。
MAX_OVERDUE: Final = 256

#: 首推未确认：message_id → (seq, 推的时刻)，按推的次序。
Fresh = dict[str, tuple[int, int]]


class Overdue(NamedTuple):
    """等不到确认的一条；``attempt`` 是这条连接所知的最后一次推送的序号。"""

    message_id: str
    attempt: int


class _Late(NamedTuple):
    seq: int
    sent_at: int
    #: 从何时起等这一级：推送或登记重试的时刻。
    since: int


class RetryLadder:
    """首推超时之后的那些：第 n 级是推过（或已登记要推）第 n 次的。

    每条连接一个，空闲时几十字节。至多记 ``limit`` 条，再多就从头记：信箱里还有，下次连接再补。
    """

    __slots__ = ("_delays", "_limit", "_rungs")

    def __init__(self, delays: Sequence[int], limit: int) -> None:
        self._delays = delays
        self._limit = limit
        self._rungs: Sequence[dict[str, _Late]] = ()

    def __len__(self) -> int:
        return sum(map(len, self._rungs))

    def oldest(self) -> int | None:
        """等得最久的一条首推的时刻；没有则 None。"""
        if not self._rungs:
            return None
        firsts = (next(iter(rung.values())) for rung in self._rungs if rung)
        return min((late.sent_at for late in firsts), default=None)

    def pushed_at(self, message_id: str) -> int | None:
        """最近一次推的时刻；不在则 None。"""
        found = (rung.get(message_id) for rung in self._rungs)
        return next((late.sent_at for late in found if late is not None), None)

    def put(self, message_id: str, attempt: int, pushed: tuple[int, int], since: int) -> None:
        """``pushed`` 是 (seq, 推的时刻)。放到第 ``attempt`` 级的末尾；超过最高级的算最高级。"""
        self.pop(message_id)
        if not self._rungs or len(self) >= self._limit:
            self._rungs = [{} for _ in self._delays]
        rung = self._rungs[min(attempt, len(self._rungs)) - 1]
        rung[message_id] = _Late(*pushed, since)

    def pop(self, message_id: str) -> tuple[int, int] | None:
        """取走，返回 (seq, 最近一次推的时刻)；不在则 None。"""
        for rung in self._rungs:
            if (late := rung.pop(message_id, None)) is not None:
                return late.seq, late.sent_at
        return None

    def pop_upto(self, seq: int) -> Iterator[tuple[str, int, int]]:
        """取走 seq 及以下的：(message_id, seq, 最近一次推的时刻)。"""
        for rung in self._rungs:
            for message_id in [each for each, late in rung.items() if late.seq <= seq]:
                late = rung.pop(message_id)
                yield message_id, late.seq, late.sent_at

    def clear(self) -> None:
        self._rungs = ()

    # ── 到点 ────────────────────────────────────────────────────────────────

    def overdue(self, fresh: Fresh, now: int) -> list[Overdue]:
        """到点的，至多 ``MAX_OVERDUE`` 条：各升一级，从 ``now`` 起重新等。"""
        found = [
            Overdue(message_id, attempt)
            for attempt, rung in enumerate(self._rungs, 1)
            for message_id in _until(rung, now - self._wait(attempt), 2)
        ]
        found += [Overdue(each, 0) for each in _until(fresh, now - self._wait(0), 1)]
        del found[MAX_OVERDUE:]
        for message_id, attempt in found:
            pushed = self.pop(message_id) if attempt else fresh.pop(message_id)
            if pushed is not None:
                self.put(message_id, attempt + 1, pushed, now)
        return found

    def next_overdue(self, fresh: Fresh, now: int) -> int:
        """最早何时要再问 ``overdue``；首推可能随时发生，所以不会更晚于 ``delays[0]`` 之后。"""
        oldest = next(iter(fresh.values()), None)
        due = (now if oldest is None else oldest[1]) + self._wait(0)
        for attempt, rung in enumerate(self._rungs, 1):
            if rung:
                due = min(due, next(iter(rung.values())).since + self._wait(attempt))
        return due

    def settle(self, message_id: str, attempt: int | None, now: int) -> None:
        """登记的结果：真正推到了第几次；None = 已不在信箱里。这期间已确认的不动。"""
        pushed = self.pop(message_id)
        if pushed is not None and attempt is not None:
            self.put(message_id, max(attempt, 1), pushed, now)

    def _wait(self, attempt: int) -> int:
        return self._delays[min(attempt, len(self._delays) - 1)]


def _until(rung: Mapping[str, tuple[int, ...]], before: int, field: int) -> Iterator[str]:
    """``field`` 列不晚于 ``before`` 的；按时间先后，所以遇到第一个不是的就停。"""
    for message_id, row in rung.items():
        if row[field] > before:
            return
        yield message_id


class Unacked:
    """推过一次的在 ``fresh``，热路径由会话直接写；等得太久、或已重推过的在 ``late``。"""

    __slots__ = ("_limit", "fresh", "late")

    def __init__(self, limits: Limits) -> None:
        self._limit = limits.max_unacked
        self.fresh: Fresh = {}
        self.late = RetryLadder(limits.retry_delays_ms, limits.max_unacked)

    def __len__(self) -> int:
        return len(self.fresh) + len(self.late)

    def oldest(self) -> int | None:
        """等得最久的一条最近一次推的时刻；没有则 None。"""
        first = next(iter(self.fresh.values()), None)
        return min((at for at in (first and first[1], self.late.oldest()) if at), default=None)

    def pushed_at(self, message_id: str) -> int | None:
        """还没有确认的，最近一次推的时刻；没有推过、确认了的都是 None。"""
        found = self.fresh.get(message_id)
        return self.late.pushed_at(message_id) if found is None else found[1]

    def newest(self, most: int) -> list[tuple[str, int]]:
        """最近首推而没有确认的：(message_id, 推的时刻)，新的在前。"""
        return [(i, at) for i, (_, at) in islice(reversed(self.fresh.items()), most)]

    def pushed_again(self, key: FrameKey, attempt: int, now: int) -> None:
        seq, message_id = key
        self.fresh.pop(message_id, None)
        self.late.put(message_id, attempt, (seq, now), now)

    def take_upto(self, upto: int) -> Iterator[tuple[str, int, int]]:
        """取走 seq 不超过 ``upto`` 的：(message_id, seq, 最近一次推的时刻)。

        紧急的可能先到，所以逐个看。
        """
        covered = [each for each, (seq, _) in self.fresh.items() if seq <= upto]
        for message_id in covered:
            yield message_id, *self.fresh.pop(message_id)
        yield from self.late.pop_upto(upto)

    def overdue(self, now: int) -> list[Overdue]:
        """推了太久还没有确认的，各升一级。"""
        return self.late.overdue(self.fresh, now)

    def next_overdue(self, now: int) -> int:
        """最早何时要再问 ``overdue``。"""
        return self.late.next_overdue(self.fresh, now)

    def clear(self) -> None:
        self.fresh = {}
        self.late.clear()

    def forget_oldest(self) -> None:
        """一次忘掉十六分之一：从 dict 头上逐个删要反复跨过空槽。"""
        for message_id in tuple(islice(self.fresh, self._limit // 16 + 1)):
            del self.fresh[message_id]
