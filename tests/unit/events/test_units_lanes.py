"""哪一份现在可以送。"""

from __future__ import annotations

import json

from meeting_push.events.units import Lanes, Unit
from meeting_push.storage.event_queue import EventRow


def unit(unit_id: int, *messages: str, next_at: int = 0, aside: bool = False) -> Unit:
    items = json.dumps([[message, 1, 2] for message in messages])
    return Unit.of(
        EventRow(
            id=unit_id,
            batch_id="B" * 26,
            first_event=0,
            kind="message.read",
            items=items,
            event_count=len(messages),
            created_at=0,
            since=0,
            attempts=int(next_at > 0),
            next_at=next_at,
            failing_since=None,
            aside=aside,
        )
    )


def lanes(*units: Unit) -> Lanes:
    found = Lanes()
    for one in units:
        found.add(one)
    return found


def taken(some: Lanes, now: int = 0) -> list[int]:
    found = []
    while (one := some.take(now)) is not None:
        found.append(one.id)
    return found


def test_one_after_another_for_a_message_and_none_waits_for_another_message() -> None:
    some = lanes(unit(1, "a"), unit(2, "a", "b"), unit(3, "c"), unit(4, "b"))
    assert taken(some) == [1, 3]
    some.done(1)
    assert taken(some) == [2]
    some.done(2)
    assert taken(some) == [4]


def test_what_failed_comes_again_when_due_and_holds_its_messages() -> None:
    some = lanes(unit(1, "a"), unit(2, "a"), unit(3, "b"))
    assert taken(some) == [1, 3]
    some.failed(1, 50)
    assert taken(some, 49) == []
    assert some.next_due() == 50
    assert taken(some, 50) == [1]


def test_a_failed_one_of_before_holds_its_messages_too() -> None:
    some = lanes(unit(1, "a", next_at=50), unit(2, "a"))
    assert taken(some, 10) == []
    assert taken(some, 50) == [1]


def test_who_steps_aside_holds_nobody() -> None:
    some = lanes(unit(1, "a", aside=True), unit(2, "a"))
    assert taken(some) == [1, 2]
    some.done(1)
    assert taken(some) == []


def test_hurried_comes_at_once_and_only_once() -> None:
    some = lanes(unit(1, "a"), unit(2, "b"))
    assert taken(some) == [1, 2]
    some.failed(1, 50)
    some.failed(2, 60)
    some.hurry()
    assert taken(some, 1) == [1, 2]
    some.failed(1, 70)
    assert taken(some, 60) == []


def test_one_that_left_from_the_middle_lets_the_others_pass() -> None:
    some = lanes(unit(1, "a"), unit(2, "a", "b"), unit(3, "b"))
    assert taken(some) == [1]
    some.done(2)
    assert taken(some) == [3]
    some.done(1)
    some.done(3)
    assert len(some) == 0
    assert taken(some) == []


def test_the_same_is_added_once() -> None:
    some = lanes(unit(1, "a"))
    assert taken(some) == [1]
    some.add(unit(1, "a"))
    assert taken(some) == []
