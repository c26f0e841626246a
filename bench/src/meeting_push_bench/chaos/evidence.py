"""一条违反的证据：历史里与它有关的那一段。"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from .history import (
    Acked,
    Answered,
    AnyEvent,
    Closed,
    Dialled,
    Faulted,
    Gapped,
    Heard,
    Observed,
    Opened,
    Received,
    Recovered,
    Resynced,
    Settled,
    Unrecorded,
)
from .violation import Violation

#: 一条违反至多给出这么多行：先给最后的，它们离出事最近。
MAX_LINES: Final = 40
#: 出事前这么久之内的故障也算有关。
FAULT_WINDOW_MS: Final = 10_000


def evidence(events: Sequence[AnyEvent], violation: Violation) -> list[str]:
    """``"序号 JSON"`` 各一行，按历史的次序。"""
    connections = set(_connections(events, violation))
    chosen = [
        (index, event)
        for index, event in enumerate(events)
        if index == violation.index or _concerns(event, violation, connections)
    ]
    last_at = chosen[-1][1].at if chosen else 0
    chosen += list(_faults(events, last_at))
    lines = sorted(chosen, key=lambda each: each[0])[-MAX_LINES:]
    return [f"{index} {_line(event, violation)}" for index, event in lines]


def _connections(events: Sequence[AnyEvent], violation: Violation) -> Iterator[int]:
    """出事的连接，与这个人收到或指名确认过这条消息的连接。"""
    if violation.connection is not None:
        yield violation.connection
    users = {e.connection: e.user_id for e in events if isinstance(e, Dialled)}
    for event in events:
        if (
            isinstance(event, Received | Acked)
            and _names(event, violation)
            and violation.user_id in (None, users[event.connection])
        ):
            yield event.connection


def _concerns(event: AnyEvent, violation: Violation, connections: set[int]) -> bool:
    match event:
        case Heard():
            mine = violation.message_id in event.message_ids
            return mine and event.connection in connections
        case Observed():
            return event.message_id == violation.message_id
        case Answered():
            return violation.message_id in event.message_ids
        case Settled() | Unrecorded():
            return event.user_id == violation.user_id and violation.message_id in event.message_ids
        case Dialled() | Opened() | Gapped() | Resynced() | Closed():
            return event.connection in connections
        case Received() | Acked():
            vague = isinstance(event, Acked) and event.upto is not None
            return event.connection in connections and (vague or _names(event, violation))
        case _:
            return False


def _names(event: Received | Acked, violation: Violation) -> bool:
    if isinstance(event, Received):
        return any(push.message_id == violation.message_id for push in event.pushes)
    return violation.message_id in event.message_ids


def _faults(events: Sequence[AnyEvent], last_at: int) -> Iterator[tuple[int, AnyEvent]]:
    for index, event in enumerate(events):
        if isinstance(event, Faulted | Recovered) and 0 <= last_at - event.at <= FAULT_WINDOW_MS:
            yield index, event


def _line(event: AnyEvent, violation: Violation) -> str:
    """一帧 ``batch`` 只留下有关的那条，别的连同一次 POST 的其余都略去。"""
    if isinstance(event, Received) and violation.message_id is not None:
        mine = tuple(p for p in event.pushes if p.message_id == violation.message_id)
        event = msgspec.structs.replace(event, pushes=mine or event.pushes)
    return msgspec.json.encode(event).decode()
