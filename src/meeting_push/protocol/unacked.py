"""一条连接上推过而还没有确认的。纯的；时间都是毫秒。"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from .envelope import FrameKey
from .limits import Limits
from .retry import Fresh, Overdue, RetryLadder


class Unacked:
    """推过一次的在 ``fresh``；等得太久、或已重推过的在 ``late``。"""

    __slots__ = ("_limit", "fresh", "late")

    def __init__(self, limits: Limits) -> None:
        self._limit = limits.max_unacked
        self.fresh: Fresh = {}
        self.late = RetryLadder(limits.retry_delays_ms, limits.max_unacked)

    def pushed(self, key: FrameKey, now: int) -> None:
        """首推（热路径）。"""
        fresh = self.fresh
        fresh[key[1]] = (key[0], now)
        if len(fresh) > self._limit:
            self._forget_oldest()

    def pushed_again(self, key: FrameKey, attempt: int, now: int) -> None:
        seq, message_id = key
        self.fresh.pop(message_id, None)
        self.late.put(message_id, attempt, (seq, now), now)

    def take(self, message_id: str) -> tuple[int, int] | None:
        """确认了：取走，返回 (seq, 最近一次推的时刻)；不在则 None。"""
        return self.fresh.pop(message_id, None) or self.late.pop(message_id)

    def take_upto(self, upto: int) -> Iterator[tuple[str, int, int]]:
        """取走 seq 不超过 ``upto`` 的：(message_id, seq, 最近一次推的时刻)。

        紧急的可能先到，所以逐个看。
        """
        covered = [each for each, (seq, _) in self.fresh.items() if seq <= upto]
        for message_id in covered:
            yield message_id, *self.fresh.pop(message_id)
        yield from self.late.pop_upto(upto)

    def overdue(self, now: int) -> list[Overdue]:
        """推了太久还没有确认的，各升一级。"""
        return self.late.overdue(self.fresh, now)

    def next_overdue(self, now: int) -> int:
        """最早何时要再问 ``overdue``。"""
        return self.late.next_overdue(self.fresh, now)

    def clear(self) -> None:
        self.fresh = {}
        self.late.clear()

    def _forget_oldest(self) -> None:
        """一次忘掉十六分之一：从 dict 头上逐个删要反复跨过空槽。"""
        for message_id in tuple(islice(self.fresh, self._limit // 16 + 1)):
            del self.fresh[message_id]
