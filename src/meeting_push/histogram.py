"""格子固定的直方图：记一次是一次二分与一个整数，没有锁；各进程的加得起来。"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import Final

#: 一次往返、一条语句（秒）。
ROUND_TRIP_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0)


class Histogram:
    """``bounds`` 升序，各是一格的上界（含）；更大的在最后一格。"""

    __slots__ = ("_counts", "bounds", "total")

    def __init__(self, bounds: tuple[float, ...] = ROUND_TRIP_S) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        #: 全部值之和。
        self.total = 0.0

    def record(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self._counts)

    def cumulative(self) -> list[int]:
        """不大于各界的次数，最后一个是全部。"""
        return list(accumulate(self._counts))
