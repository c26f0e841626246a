"""洞：哪些 seq 不会再推，为什么（DLV-5）。纯函数。"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from ..model import Evicted, MailboxView
from .frames import Gap
from .sent import SentSeqs


def gaps(view: MailboxView, told: int, sent: SentSeqs) -> Iterator[Gap]:
    """``view`` 里要向这条连接宣告的洞，按 seq，互不重叠。

    推过的不算洞，过期了、被挤出信箱也已到手；``told`` 及以下的宣告过了。
    """
    gone = [seq for seq in view.expired if seq > told and seq not in sent]
    live = [entry.seq for entry in view.entries]
    low, evicted = max(told, sent.floor), view.evicted
    if evicted is None or evicted.to_seq <= low:
        yield from expired_gaps(gone, live)
        return
    first = max(evicted.from_seq, low + 1)
    yield from expired_gaps([seq for seq in gone if seq < first], live)
    yield _evicted(evicted, first, gone)
    yield from expired_gaps([seq for seq in gone if seq > evicted.to_seq], live)


def _evicted(evicted: Evicted, first: int, gone: Sequence[int]) -> Gap:
    """这段里过期了的也算在内：一个 seq 只说一次。"""
    last = evicted.to_seq
    count = evicted.count + sum(first <= seq <= last for seq in gone)
    return Gap(from_seq=first, to_seq=last, count=min(count, last - first + 1), reason="evicted")


def expired_gaps(gone: Collection[int], live: Collection[int]) -> Iterator[Gap]:
    """``gone`` 连成的洞；范围里绝不夹着 ``live``，否则客户端会以为它也不来了。"""
    run: list[int] = []
    kept = frozenset(live)
    for seq in sorted({*gone, *kept}):
        if seq not in kept:
            run.append(seq)
        elif run:
            yield _expired(run)
            run = []
    if run:
        yield _expired(run)


def _expired(run: list[int]) -> Gap:
    return Gap(from_seq=run[0], to_seq=run[-1], count=len(run), reason="expired")
