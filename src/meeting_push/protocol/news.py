"""一条连接上的广播走到了哪里：与 seq 的账无关，日志的次序就是发布的次序，一个整数就够。"""

from __future__ import annotations

from ..model import BroadcastEntry, BroadcastView


class News:
    __slots__ = ("_behind", "_waiting", "upto")

    def __init__(self) -> None:
        #: 推过（或无需推）到广播日志的哪里；None = 还没读过游标。
        self.upto: int | None = None
        #: 读到了、等着和信箱一起补发的。
        self._waiting: tuple[BroadcastEntry, ...] = ()
        self._behind = False

    def fall_behind(self) -> None:
        """也许漏过，还没轮到它重读：此后实时到的先不推，重读时连同漏掉的一起补。"""
        self._behind = True

    def read(self, view: BroadcastView) -> None:
        """要补发 ``view`` 里的；此后实时到的从 ``view.upto`` 之后算起。"""
        self.upto = view.upto
        self._behind = False
        self._waiting += view.entries

    def take(self) -> tuple[BroadcastEntry, ...]:
        waiting, self._waiting = self._waiting, ()
        return waiting

    def fresh(self, broadcast_id: int) -> bool:
        """还没推过，现在就该推：记账。"""
        if self._behind or (self.upto is not None and broadcast_id <= self.upto):
            return False
        self.upto = broadcast_id
        return True
