"""等着、触发、恢复。"""

from __future__ import annotations

from typing import Final

import msgspec

from meeting_push.monitoring.alerts.expressions import PROCESS, Latest, gauge
from meeting_push.monitoring.alerts.history import History, Reading
from meeting_push.monitoring.alerts.model import Severity, Text
from meeting_push.monitoring.alerts.phases import Before, Outcome, Spot, step
from meeting_push.monitoring.alerts.rule import Comparison, Rule

RULE: Final = Rule(
    rule_id="hot",
    expression=Latest(gauge("heat"), "max", by=PROCESS),
    comparison=Comparison.ABOVE,
    threshold=10,
    unit="count",
    for_s=5,
    severity=Severity.WARNING,
    summary=Text("热", "hot"),
)
A: Final = Spot("hot", (("node", "a"),))
NOW: Final = 1_800_000_000_000
NOTHING: Final = Before({}, ())


def at(
    heat: float | None,
    before: Before = NOTHING,
    now: int = NOW,
    *,
    rule: Rule = RULE,
    partial: bool = False,
) -> Outcome:
    history = History([gauge("heat")])
    gauges = {} if heat is None else {"heat": {"": heat}}
    history.take(0, {"a": Reading(gauges, {})})
    return step({"hot": rule}, history, before, now, partial=partial)


def test_over_the_line_waits_first() -> None:
    assert at(11) == Outcome({A: NOW}, {}, [])


def test_over_the_line_for_long_enough_fires() -> None:
    assert at(11, Before({A: NOW - 5_000}, ())) == Outcome({}, {A: 11}, [])


def test_short_of_long_enough_waits_on() -> None:
    assert at(11, Before({A: NOW - 4_999}, ())) == Outcome({A: NOW - 4_999}, {}, [])


def test_back_below_the_line_begins_anew() -> None:
    assert at(9, Before({A: NOW - 4_999}, ())) == Outcome({}, {}, [])


def test_what_fires_already_does_not_fire_again() -> None:
    assert at(11, Before({}, [A])) == Outcome({}, {}, [])


def test_what_is_back_below_the_line_is_resolved() -> None:
    assert at(9, Before({}, [A])) == Outcome({}, {}, [A])


def test_what_has_gone_is_resolved() -> None:
    assert at(None, Before({}, [A])) == Outcome({}, {}, [A])


def test_what_is_only_out_of_sight_stays_as_it_was() -> None:
    b = Spot("hot", (("node", "b"),))
    assert at(9, Before({b: NOW - 1}, []), partial=True) == Outcome({b: NOW - 1}, {}, [])
    assert at(9, Before({}, [b]), partial=True) == Outcome({}, {}, [])


def test_what_is_in_sight_resolves_also_when_others_are_not() -> None:
    assert at(9, Before({}, [A]), partial=True) == Outcome({}, {}, [A])


def test_a_rule_that_was_turned_off_resolves() -> None:
    off = msgspec.structs.replace(RULE, enabled=False)
    assert at(11, Before({A: NOW}, [A]), rule=off) == Outcome({}, {}, [A])
    assert at(11, Before({}, [A]), rule=off, partial=True) == Outcome({}, {}, [A])


def test_a_clock_that_jumped_back_begins_the_wait_anew() -> None:
    assert at(11, Before({A: NOW + 60_000}, ())) == Outcome({A: NOW}, {}, [])
