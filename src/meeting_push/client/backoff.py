"""重连的退避：全抖动、指数、封顶。纯计算，随机数由外面给。"""

from __future__ import annotations

from collections.abc import Callable
from math import ldexp
from typing import Final

#: 2**32 个底数早已超过任何封顶值；再往上只会让浮点溢出。
_MAX_DOUBLINGS: Final = 32


class Backoff:
    """第 n 次（从 0 数）的等待在 [0, min(cap, base·2ⁿ)) 里均匀取。

    从第一次起就抖动：发布之后所有客户端同时断开，差别只能来自这里（phoenix#4045）。
    """

    def __init__(self, base_s: float, cap_s: float, random: Callable[[], float]) -> None:
        """``random`` 返回 [0, 1) 的均匀随机数。"""
        self._base_s = base_s
        self._cap_s = cap_s
        self._random = random
        self._attempt = 0

    def next_delay(self) -> float:
        """下一次尝试前要等的秒数。"""
        ceiling = min(self._cap_s, ldexp(self._base_s, min(self._attempt, _MAX_DOUBLINGS)))
        self._attempt += 1
        return self._random() * ceiling

    def within(self, window_s: float) -> float:
        """服务器指定的窗口（draining）里的一点；不计作一次失败。"""
        return self._random() * window_s

    def reset(self) -> None:
        """连接稳定之后：退避从头算起。"""
        self._attempt = 0
