"""一条连接欠它的设备哪些 seq：按优先级分开的小顶堆，付清的懒惰地移走。"""

from __future__ import annotations

import heapq
from collections.abc import Iterator


class Owed:
    """``top``：到此为止的 seq 都已算过账。"""

    def __init__(self, top: int) -> None:
        self.top = top
        #: 别的设备确认了也得给：续传许下的，与它在线时发出的。
        self._mandatory: set[int] = set()
        self._owed: set[int] = set()
        self._announced: set[int] = set()
        self._lanes: dict[int, list[int]] = {}

    def add(self, seq: int, priority: int, *, mandatory: bool = False) -> None:
        if mandatory:
            self._mandatory.add(seq)
        if seq not in self._owed and seq not in self._announced:
            self._owed.add(seq)
            heapq.heappush(self._lanes.setdefault(priority, []), seq)

    def paid(self, seq: int) -> None:
        self._owed.discard(seq)
        self._mandatory.discard(seq)

    def forgiven(self, seq: int) -> None:
        """别的设备确认了它。"""
        if seq not in self._mandatory:
            self._owed.discard(seq)

    def announced(self, from_seq: int, to_seq: int) -> None:
        """``gap`` 说出来的洞不算洞。"""
        for seq in range(from_seq, to_seq + 1):
            self._announced.add(seq)
            self.paid(seq)

    def overdue(self, before_seq: int, least_priority: int) -> Iterator[int]:
        """``before_seq`` 之前、优先级不低于 ``least_priority`` 而还欠着的；说过一次就付清。"""
        for priority, lane in self._lanes.items():
            if priority < least_priority:
                continue
            while lane and (lane[0] not in self._owed or lane[0] < before_seq):
                seq = heapq.heappop(lane)
                if seq in self._owed:
                    self.paid(seq)
                    yield seq

    def __len__(self) -> int:
        return len(self._owed)
