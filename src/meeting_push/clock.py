"""时钟：墙上时间的整数毫秒。需要假时钟的测试把 ``Clock`` 换掉。"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]


def now_ms() -> int:
    """Unix 纪元起的毫秒。"""
    return time.time_ns() // 1_000_000
