"""一个接收者此刻怎样：行不行，送了多少，还等着多少。"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

#: 连着这么多份没有送成，就是接收者不行；那时隔多久试一份（秒）。
BROKEN_AFTER: Final = 5
FIRST_REST_S: Final = 1.0
MOST_REST_S: Final = 60.0


def jitter() -> float:
    return random.uniform(0.75, 1.25)  # noqa: S311 — 抖动不需要密码学随机


@dataclass(slots=True)
class SenderFigures:
    """只增的，与此刻的；此刻的只有轮到的那个进程知道，别的是 0。"""

    sent: int = 0
    failed: int = 0
    dead: int = 0
    forgotten: int = 0
    waiting: int = 0
    oldest_age_s: float = 0
    dead_waiting: int = 0
    leads: bool = False
    parked: bool = False
    broken: bool = False


@dataclass(slots=True)
class Rest:
    """接收者此刻行不行。``until`` 是单调的秒。"""

    in_a_row: int = 0
    until: float = 0

    @property
    def broken(self) -> bool:
        return self.in_a_row >= BROKEN_AFTER

    def failed(self, now: float, wanted_s: float) -> None:
        self.in_a_row += 1
        pause = wanted_s
        if self.broken:
            step = min(self.in_a_row - BROKEN_AFTER, 10)
            pause = max(pause, min(FIRST_REST_S * 2**step, MOST_REST_S) * jitter())
        self.until = max(self.until, now + pause)

    def succeeded(self) -> bool:
        """True：刚好起来。"""
        was_broken = self.broken
        self.in_a_row, self.until = 0, 0
        return was_broken
