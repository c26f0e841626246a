"""这台设备应用过什么：seq 的连续下限，与最近的消息 id。纯计算。

服务器先推完连接时的积压（*flush*，seq ≤ ``welcome.seq``），再推之后的（live）。
积压按优先级在前，所以 seq 不按次序来；积压推完时仍没出现的 seq 不会再来
（别的设备已确认，或已过期），可以算已了结。live 的 seq 逐一相连。
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from ..model import ResumePoint

#: 下限之上最多记多少段；超出的丢掉最高的，代价只是重连时多收几条重复的。
MAX_RANGES: Final = 1_024


class SettledSeqs:
    """已了结的 seq：1…``floor`` 全部，以及其上若干互不相邻的段。"""

    def __init__(self, floor: int = 0, max_ranges: int = MAX_RANGES) -> None:
        self.floor = floor
        self._max_ranges = max_ranges
        self._lows: list[int] = []
        self._highs: list[int] = []

    def __contains__(self, seq: int) -> bool:
        if seq <= self.floor:
            return True
        index = bisect_left(self._highs, seq)
        return index < len(self._lows) and self._lows[index] <= seq

    def add(self, low: int, high: int) -> None:
        """了结 ``low``…``high``（含两端）；空段与重复都无害。"""
        low = max(low, self.floor + 1)
        if low > high:
            return
        if not self._lows and low == self.floor + 1:  # 平常：一条接一条
            self.floor = high
            return
        first = bisect_left(self._highs, low - 1)
        last = bisect_right(self._lows, high + 1)
        if first < last:
            low = min(low, self._lows[first])
            high = max(high, self._highs[last - 1])
        self._lows[first:last] = [low]
        self._highs[first:last] = [high]
        self._raise_floor()
        del self._lows[self._max_ranges :], self._highs[self._max_ranges :]

    def _raise_floor(self) -> None:
        if self._lows[0] == self.floor + 1:
            self.floor = self._highs.pop(0)
            self._lows.pop(0)


class RecentIds:
    """有界的 id 集合；最久没碰到的先忘掉。"""

    def __init__(self, capacity: int, ids: Iterable[str] = ()) -> None:
        self._capacity = capacity
        # 普通 dict 从头上逐个删要反复跨过空槽
        self._ids: OrderedDict[str, None] = OrderedDict()
        for message_id in ids:
            self.add(message_id)

    def __contains__(self, message_id: str) -> bool:
        return message_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, message_id: str) -> None:
        self._ids[message_id] = None
        self._ids.move_to_end(message_id)
        if len(self._ids) > self._capacity:
            self._ids.popitem(last=False)

    def oldest_first(self) -> list[str]:
        return list(self._ids)


class Applied:
    """一台设备的账：能向服务器声称到哪个位置，哪些消息不得再交给应用。"""

    def __init__(
        self,
        capacity: int,
        *,
        resume: ResumePoint | None = None,
        ids: Iterable[str] = (),
    ) -> None:
        self.epoch = resume.epoch if resume else None
        self.ids = RecentIds(capacity, ids)
        self._seqs = SettledSeqs(resume.last_seq if resume else 0)
        #: 第一批积压推完之前，没有任何位置可以声称。
        self._positioned = resume is not None
        #: 本连接收到而尚未应用的 seq。
        self._outstanding: set[int] = set()
        self._flushing = False
        self._flush_upto = 0
        self._flush_seen: set[int] = set()
        #: 积压有几条；None 表示不知道（续传时 ``pending`` 不含记录里补来的）。
        self._flush_size: int | None = None

    @property
    def resume_point(self) -> ResumePoint | None:
        """重连时声称的位置：其下的每一条都已应用或已宣告不会来。"""
        if self.epoch is None or not self._positioned:
            return None
        return ResumePoint(self.epoch, self._seqs.floor)

    def opened(self, epoch: str, seq: int, *, resumed: bool, pending: int) -> None:
        """收到 ``welcome``：一段新的积压开始。没有续传时旧位置作废。"""
        self.epoch = epoch
        self._outstanding.clear()
        self._flush_seen.clear()
        self._flushing, self._flush_upto = True, seq
        self._flush_size = None if resumed else pending
        if not resumed:
            self._seqs, self._positioned = SettledSeqs(), False
        self._end_flush_if_complete()

    def received(self, seq: int) -> None:
        """一条带 seq 的消息到了（重复的也算）。"""
        if self._flushing and seq > self._flush_upto:
            self._end_flush()
        if seq not in self._seqs:
            self._outstanding.add(seq)
        if self._flushing:
            self._flush_seen.add(seq)
            self._end_flush_if_complete()

    def applied(self, message_id: str, seq: int | None, epoch: str | None) -> None:
        """应用处理完一条；``epoch`` 是收到它时的，已换代的 seq 不再有意义。"""
        self.ids.add(message_id)
        if seq is not None and epoch == self.epoch:
            self._outstanding.discard(seq)
            self._seqs.add(seq, seq)

    def gap(self, from_seq: int, to_seq: int) -> None:
        """服务器宣告这一段不再有（``gap``）；已到手、尚未应用的除外。"""
        self._settle_absent(from_seq, to_seq)

    def resynced(self, epoch: str, seq: int) -> None:
        """服务器宣告位置作废（``resync``）：新的下限是 ``seq``。

        紧跟 ``welcome`` 而来的那一个说的是同一件事：下限等积压推完再动，
        否则中途断开会把没应用的说成已应用。
        """
        if self._flushing and epoch == self.epoch:
            return
        self.epoch, self._seqs, self._positioned = epoch, SettledSeqs(seq), True
        self._outstanding.clear()
        self._flushing = False

    def _end_flush_if_complete(self) -> None:
        if self._flush_size is not None and len(self._flush_seen) >= self._flush_size:
            self._end_flush()

    def _end_flush(self) -> None:
        self._flushing, self._positioned = False, True
        self._flush_seen.clear()
        self._settle_absent(1, self._flush_upto)

    def _settle_absent(self, low: int, high: int) -> None:
        for seq in sorted(s for s in self._outstanding if low <= s <= high):
            self._seqs.add(low, seq - 1)
            low = seq + 1
        self._seqs.add(low, high)
