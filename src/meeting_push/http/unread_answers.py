"""写出去而没有人读的应答一共占多少内存：进程有上限，每个地址有份额（CON-1 在 HTTP 上）。"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Final, Protocol

from ..limits.forwarded import rate_key

MOST_BYTES: Final = 64 * 1024 * 1024
MOST_BYTES_PER_ADDRESS: Final = 16 * 1024 * 1024


class SlowReader(Protocol):
    """一条写缓冲在高水位之上的连接。"""

    def cut_off(self) -> None:
        """掐断；同步，不抛出。"""
        ...


class UnreadAnswers:
    """超出时掐断占得最多的地址里积压得最久的：读得动的几毫秒就读完了，轮不到它。"""

    def __init__(
        self, most: int = MOST_BYTES, most_per_address: int = MOST_BYTES_PER_ADDRESS
    ) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._readers: OrderedDict[SlowReader, tuple[str, int]] = OrderedDict()
        self._by_address: Counter[str] = Counter()
        self._total = 0

    @property
    def total(self) -> int:
        return self._total

    def note(self, reader: SlowReader, address: str, size: int) -> None:
        """``reader`` 此刻积压 ``size`` 字节；再次登记不改变它等了多久。"""
        key = rate_key(address)
        self._account(key, size - self._readers.get(reader, (key, 0))[1])
        self._readers[reader] = (key, size)
        while self._by_address[key] > self._most_per_address and self._cut_oldest(key):
            pass
        while self._total > self._most:
            if not self._cut_oldest(max(self._by_address, key=self._by_address.__getitem__)):
                return

    def forget(self, reader: SlowReader) -> None:
        """读走了，或断开了；幂等。"""
        found = self._readers.pop(reader, None)
        if found is not None:
            key, size = found
            self._account(key, -size)

    def _account(self, key: str, size: int) -> None:
        self._total += size
        self._by_address[key] += size
        if not self._by_address[key]:
            del self._by_address[key]

    def _cut_oldest(self, key: str) -> bool:
        """只有一条的不掐：它多大由应答的上限管。"""
        mine = [reader for reader, (whose, _) in self._readers.items() if whose == key]
        if len(mine) < 2:
            return False
        self.forget(mine[0])
        mine[0].cut_off()
        return True
