"""洞：哪些 seq 不会再推，为什么（DLV-5）。"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from ..model import EvictedRange, MailboxView
from .frames import Gap
from .sent import SentSeqs


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
