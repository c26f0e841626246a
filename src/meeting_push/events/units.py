"""一份：一次 POST 的若干事件，与它的正文；哪一份现在可以送。

同一条消息的一份接一份，不同消息的互不相等。纯的：没有钟，没有 I/O。一份可能说到几条消息，它排在
每一条的队里；在每一条里都排到头了才轮得到它。没有送成的仍占着各队的头，到时再送；让到一边的
（``step_aside``）离开各队，后面的就走得了。
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heappop, heappush
from itertools import zip_longest
from typing import Any, Final

import msgspec

from ..person_id import NOBODY, PersonId
from ..storage.event_outbox import FIELDS
from ..storage.event_queue import EventRow

_items: Final = msgspec.json.Decoder(list[list[Any]])


@dataclass(slots=True, eq=False)
class Unit:
    """``subjects``：说到的消息（告警的是告警）。时刻都是毫秒。"""

    row: EventRow
    items: list[list[Any]]
    subjects: frozenset[str]
    attempts: int
    next_at: int
    failing_since: int | None

    @classmethod
    def of(cls, row: EventRow) -> Unit:
        """:raises msgspec.DecodeError: 行被改坏了"""
        items = _items.decode(row.items)
        subjects = frozenset(str(item[0]) for item in items)
        return cls(row, items, subjects, row.attempts, row.next_at, row.failing_since)

    @property
    def id(self) -> int:
        return self.row.id

    @property
    def aside(self) -> bool:
        return self.row.aside

    @property
    def webhook_id(self) -> str:
        """一份的：重送的相同，收的一方凭它去重。只有一个事件就是那个事件的。"""
        if len(self.items) == 1:
            return event_id(self.row.batch_id, self.row.first_event)
        return f"evt_{self.row.batch_id}_{self.row.first_event}_{len(self.items)}"


class PushEvent(msgspec.Struct, frozen=True):
    """收的一方看见的；``timestamp`` 是 ISO 8601（Standard Webhooks），``data`` 里的时刻是毫秒。"""

    id: str
    type: str
    timestamp: str
    data: dict[str, Any]


def event_id(batch_id: str, place: int) -> str:
    return f"evt_{batch_id}_{place}"


#: ``data`` 里的人：记录里是号，出门换成对外的 id。
_PEOPLE: Final = ("sender_id", "user_id")
#: 号 → 对外的 id。
Persons = Callable[[Iterable[int]], Awaitable[Mapping[int, PersonId]]]


async def itself(numbers: Iterable[int]) -> Mapping[int, PersonId]:
    """人都是整数：号就是 id。"""
    return {number: number for number in numbers}


async def introduced(unit: Unit, persons: Persons) -> list[PushEvent]:
    """``unit`` 的各个事件。

    :raises MeetingPushError: 有人此刻问不到
    """
    events = events_of(unit)
    places = [name for name in _PEOPLE if name in FIELDS[unit.row.kind]]
    known = [event.data[name] for event in events for name in places]
    if not any(isinstance(number, int) and number > NOBODY for number in known):
        return events
    shown = await persons({number for number in known if number is not None})
    for event in events:
        for name in places:
            event.data[name] = shown.get(event.data[name])
    return events


def events_of(unit: Unit) -> list[PushEvent]:
    """人是号。"""
    row, fields = unit.row, FIELDS[unit.row.kind]
    at = moment(row.created_at)
    return [
        PushEvent(
            event_id(row.batch_id, row.first_event + place),
            row.kind,
            at,
            # 别的版本写下的可能少几项、多几项
            dict(zip_longest(fields, item[: len(fields)])),
        )
        for place, item in enumerate(unit.items)
    ]


def body_of(events: list[PushEvent]) -> bytes:
    """一个就是它，几个就是数组。"""
    return msgspec.json.encode(events[0] if len(events) == 1 else events)


def moment(ms: int) -> str:
    found = datetime.fromtimestamp(ms / 1000, UTC)
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
