"""各网关何时被打扰着：从故障开始到恢复，再加上补齐漏掉的所需的时间。"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from .facts import Facts
from .history import AnyEvent, Faulted, Recovered
from .redis_side import REDIS
from .stillness import Span


class Disturbances:
    """``grace_ms``：就绪之后至多这么久，该到的都到了（重连的退避、重读、忙着的机器）。

    Redis 丢了数据的，到从 SQL 补齐为止，各网关都算；整台机器停住的也是。
    """

    def __init__(self, facts: Facts, gateways: int, grace_ms: int) -> None:
        self._grace_ms = grace_ms
        faults = list(_faults(facts.events))
        losses = [*facts.losses.spans, *((s.start, s.end) for s in facts.losses.switches)]
        losses += facts.stillness.spans
        self._spans = [
            sorted([*losses, *(span for target, span in faults if _concerns(target, number))])
            for number in range(gateways)
        ]

    def due(self, gateway: int, at: int) -> int:
        """``at`` 那一刻发布的，最迟何时该到这个网关的设备。"""
        due = at + self._grace_ms
        for start, end in self._spans[gateway]:
            if start <= due and at <= end:
                due = max(due, end + self._grace_ms)
        return due


def _faults(events: Sequence[AnyEvent]) -> Iterator[tuple[str, Span]]:
    """同一个目标一次一种故障，所以开始与恢复依次配对。"""
    began: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for event in events:
        if isinstance(event, Faulted):
            began[event.target, event.kind].append(event.at)
        elif isinstance(event, Recovered):
            yield event.target, (began[event.target, event.kind].pop(0), event.at)


def _concerns(target: str, gateway: int) -> bool:
    return target == REDIS or f"gateway-{gateway}" in target.replace("→", " ").split()
