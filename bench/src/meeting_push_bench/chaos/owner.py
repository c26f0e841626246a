"""一台设备：谁的，记得什么，在哪个 epoch 连续收到了哪里。"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from .history import HistoryWriter
from .ledger import Ledger
from .town import Town

_NEVER: Final = 1 << 62


class Position:
    """``floor``：它及以下的都收到了，或已知不会再来。``upto`` 与续传都只敢说到这里。"""

    def __init__(self) -> None:
        self.epoch = ""
        self.floor = 0
        #: 这条连接的补发收齐了：此后才可以用 ``upto``，否则会涵盖还在路上的。
        self.flushed = False
        self._above: set[int] = set()
        self._missing = 0
        self._flush_seq = 0

    def opened(self, epoch: str, seq: int, pending: int) -> None:
        """一条新连接的 welcome：先来 ``pending`` 条补发，到齐即到 ``seq`` 为止。"""
        self.restart(epoch)
        self.flushed, self._missing, self._flush_seq = False, pending, seq
        self._settle()

    def restart(self, epoch: str) -> None:
        """换了 epoch，旧的 seq 都不算了。"""
        if epoch != self.epoch:
            self.epoch, self.floor = epoch, 0
            self._above.clear()
            # 连接中途换的：不知道有几条补发，这条连接上不再用 upto
            self.flushed, self._missing = False, _NEVER

    def resynced(self, epoch: str, seq: int) -> None:
        """位置作废。epoch 照旧的：换上来的主缺了一段，``seq`` 以上的号要再用一遍。"""
        self.restart(epoch)
        if self.floor > seq:
            self.floor = seq
            self._above.clear()

    def received(self, seq: int) -> None:
        if seq > self.floor:
            self._above.add(seq)
        self._missing -= 1
        self._settle()

    def _settle(self) -> None:
        if not self.flushed and self._missing <= 0:
            self.flushed = True
            self.floor = max(self.floor, self._flush_seq)
            self._above = {seq for seq in self._above if seq > self.floor}
        while self.floor + 1 in self._above:
            self.floor += 1
            self._above.remove(self.floor)


@dataclass(frozen=True, slots=True)
class Owner:
    """``position`` 与 ``late`` 跨连接保存，像手机上的存储。

    ``late``：收到了而留到以后的连接上再确认的。
    """

    town: Town
    ledger: Ledger
    history: HistoryWriter
    user_id: int
    device: str
    position: Position = field(default_factory=Position)
    late: list[str] = field(default_factory=list)
