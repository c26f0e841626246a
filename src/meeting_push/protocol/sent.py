"""一条连接上推过哪些 seq：一个连续的底加上底以上零散的几个（如 TCP 的 SACK）。

一个用户的 seq 是连续分配的，所以空闲时只占一个整数。
"""

from __future__ import annotations

from typing import Final

#: 底以上最多记几个；超过时放弃最老的洞，那一条留在信箱里，下次连接再补。
MAX_ABOVE: Final = 4096


class SentSeqs:
    """``floor`` 及以下的都算推过（或无需推）。"""

    __slots__ = ("above", "floor")

    def __init__(self) -> None:
        self.floor = 0
        #: 底以上零散的；空集合要 216 字节，所以没有时是 None。
        self.above: set[int] | None = None

    def __contains__(self, seq: int) -> bool:
        return seq <= self.floor or (self.above is not None and seq in self.above)

    def add(self, seq: int) -> bool:
        """记下 ``seq``；已有则返回 False。"""
        if seq == self.floor + 1:
            self.floor = seq
            if self.above is not None:
                self._absorb(self.above)
            return True
        if seq in self:
            return False
        if self.above is None:
            self.above = set()
        self.above.add(seq)
        if len(self.above) > MAX_ABOVE:
            self.settle(min(self.above))
        return True

    def settle(self, seq: int) -> None:
        """``seq`` 及以下的从此都算推过。"""
        if seq <= self.floor:
            return
        self.floor = seq
        if self.above is not None:
            self.above = {each for each in self.above if each > seq}
            self._absorb(self.above)

    def _absorb(self, above: set[int]) -> None:
        while self.floor + 1 in above:
            self.floor += 1
            above.remove(self.floor)
        if not above:
            self.above = None
