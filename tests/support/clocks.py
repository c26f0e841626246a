"""拨得动的时钟：墙上的（整数毫秒）与单调的（秒）。"""

from __future__ import annotations

from typing import Generic, TypeVar

N = TypeVar("N")


class _Clock(Generic[N]):
    def __init__(self, now: N) -> None:
        self.now = now

    def __call__(self) -> N:
        return self.now


WallClock = _Clock[int]
Monotonic = _Clock[float]
