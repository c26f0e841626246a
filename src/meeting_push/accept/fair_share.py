"""发送者之间怎样分：洪水只推迟发洪水的人（LESSONS 34）。纯的，``now`` 是毫秒。"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Final

from ..model import Outgoing

#: 轮到一个发送者，他至少得到这么多份（收件人，正文每 ``BYTES_PER_UNIT``）。
QUANTUM: Final = 500
#: 一批 5,000 份的正文至多约 1 MB：编码、压缩、发出时都另有一份。
BYTES_PER_UNIT: Final = 200
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

    def extend(self, outgoing: Iterable[Outgoing]) -> None:
        for item in outgoing:
            self._lines.setdefault(item.message.sender.id, deque()).append(item)
            self._count += 1

    def take(self, messages: int, units: int) -> list[Outgoing]:
        """至多 ``messages`` 条，到 ``units`` 份为止；每人轮到一次给 ``QUANTUM`` 份。"""
        taken: list[Outgoing] = []
        size = 0
        while self._lines and len(taken) < messages and size < units:
            sender_id, line = self._lines.popitem(last=False)
            share = 0
            while line and share < min(QUANTUM, units - size) and len(taken) < messages:
                taken.append(line.popleft())
                share += _units(taken[-1])
            size += share
            if line:
                self._lines[sender_id] = line
        self._count -= len(taken)
        return taken

    def clear(self) -> None:
        self._lines.clear()
        self._count = 0


def _units(outgoing: Outgoing) -> int:
    return len(outgoing.recipient_ids) + len(outgoing.message.content) // BYTES_PER_UNIT
