"""哪一份现在可以送：同一条消息的一份接一份，不同消息的互不相等。纯的：没有钟，没有 I/O。

一份可能说到几条消息，它排在每一条的队里；在每一条里都排到头了才轮得到它。没有送成的仍占着各队的头，
到时再送；让到一边的（``step_aside``）离开各队，后面的就走得了。
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush

from .units import Unit


@dataclass(slots=True, eq=False)
class _Held:
    unit: Unit
    #: 还有几条消息没有排到头。
    behind: int = 0
    #: 在发着。
    sent: bool = False
    queued: bool = True


@dataclass(slots=True)
class Lanes:
    """``add`` 按号从小到大；同一份再加一次无事。"""

    _held: dict[int, _Held] = field(default_factory=dict)
    _lanes: dict[str, deque[_Held]] = field(default_factory=dict)
    #: 轮得到的，号小的先。
    _ready: list[int] = field(default_factory=list)
    #: （何时, 号）：没有送成的。
    _later: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, unit_id: int) -> bool:
        return unit_id in self._held

    def add(self, unit: Unit) -> None:
        if unit.id in self._held:
            return
        held = self._held[unit.id] = _Held(unit, queued=not unit.aside)
        if held.queued:
            for subject in unit.subjects:
                lane = self._lanes.setdefault(subject, deque())
                held.behind += bool(lane)
                lane.append(held)
        if held.behind == 0:
            self._wait_turn(held)

    def take(self, now: int) -> Unit | None:
        """轮到的一份，从此算发着的；没有则 None。"""
        while self._later and self._later[0][0] <= now:
            _, unit_id = heappop(self._later)
            if unit_id in self._held:
                heappush(self._ready, unit_id)
        while self._ready:
            held = self._held.get(heappop(self._ready))
            if held is not None and not held.sent and held.unit.next_at <= now:
                held.sent = True
                return held.unit
        return None

    def next_due(self) -> int | None:
        """没有现成的：最早何时才有。"""
        return self._later[0][0] if self._later else None

    def done(self, unit_id: int) -> None:
        """送成了，或成了死信：后面的上前。"""
        held = self._held.pop(unit_id, None)
        if held is not None:
            self._leave(held)

    def failed(self, unit_id: int, next_at: int) -> None:
        held = self._held[unit_id]
        held.sent = False
        held.unit.next_at = next_at
        heappush(self._later, (next_at, unit_id))

    def hurry(self) -> None:
        """接收者好了：没有送成的不再等各自的时候。"""
        for _, unit_id in self._later:
            if unit_id in self._held:
                self._held[unit_id].unit.next_at = 0
                heappush(self._ready, unit_id)
        self._later.clear()

    def clear(self) -> None:
        """不再轮到我们。"""
        self._held.clear()
        self._lanes.clear()
        self._ready.clear()
        self._later.clear()

    def _wait_turn(self, held: _Held) -> None:
        if held.unit.next_at:
            heappush(self._later, (held.unit.next_at, held.unit.id))
        else:
            heappush(self._ready, held.unit.id)

    def _leave(self, held: _Held) -> None:
        if not held.queued:
            return
        held.queued = False
        for subject in held.unit.subjects:
            lane = self._lanes[subject]
            was_first = lane[0] is held
            lane.remove(held)
            if not lane:
                del self._lanes[subject]
            elif was_first:
                following = lane[0]
                following.behind -= 1
                if following.behind == 0:
                    self._wait_turn(following)
