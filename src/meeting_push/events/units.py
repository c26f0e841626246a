"""一份：一次 POST 的若干事件，与它的正文。"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
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
