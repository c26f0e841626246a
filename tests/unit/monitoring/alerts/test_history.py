"""规则看的数：增量、重来、新来的与看不见的进程。"""

from __future__ import annotations

import pytest

from meeting_push.monitoring.alerts.history import COARSE_STEP_S, FINE_S, KEPT_S, History, Reading
from meeting_push.monitoring.alerts.rule import Selector, counter, gauge

DROPS = counter("drops")
LENGTH = gauge("length")


def counted(value: float, label: str = "") -> Reading:
    return Reading({}, {"drops": {label: value}})


def measured(value: float) -> Reading:
    return Reading({"length": {"": value}}, {})


@pytest.fixture
def history() -> History:
    return History([DROPS, LENGTH])


def total(history: History, window_s: float, selector: Selector = DROPS) -> float:
    return sum(history.increase(selector, window_s).values())


def test_what_was_counted_before_we_looked_is_no_increase(history: History) -> None:
    history.take(0, {"a": counted(100)})
    assert total(history, 60) == 0


def test_the_increase_is_that_of_the_window(history: History) -> None:
    for at in range(0, 100, 10):
        history.take(at, {"a": counted(at)})
    assert total(history, 30) == 30


def test_a_counter_that_begins_again_is_no_step_back(history: History) -> None:
    history.take(0, {"a": counted(100)})
    history.take(5, {"a": counted(110)})
    history.take(10, {"a": counted(3)})
    assert total(history, 60) == 13


def test_a_process_that_came_later_counts_from_zero(history: History) -> None:
    history.take(0, {"a": counted(100)})
    history.take(5, {"a": counted(100), "b": counted(7)})
    assert total(history, 60) == 7


def test_a_process_that_was_out_of_sight_counts_what_it_added(history: History) -> None:
    history.take(0, {"a": counted(1), "b": counted(1_000)})
    history.take(5, {"a": counted(1)}, partial=True)
    history.take(10, {"a": counted(1), "b": counted(1_002)})
    assert total(history, 60) == 2


def test_who_is_first_seen_after_a_partial_look_is_not_new(history: History) -> None:
    history.take(0, {"a": counted(1)}, partial=True)
    history.take(5, {"a": counted(1), "b": counted(1_000)})
    assert total(history, 60) == 0


def test_the_dead_take_nothing_back(history: History) -> None:
    history.take(0, {"a": counted(0), "b": counted(0)})
    history.take(5, {"a": counted(1), "b": counted(5)})
    history.take(10, {"a": counted(1)})
    assert total(history, 60) == 6


def test_a_label_that_appears_counts_from_zero(history: History) -> None:
    history.take(0, {"a": counted(1, "x")})
    history.take(5, {"a": Reading({}, {"drops": {"x": 1, "y": 4}})})
    assert history.increase(counter("drops", "reason", "y"), 60) == {"y": 4}


def test_what_nobody_has_is_absent(history: History) -> None:
    history.take(0, {"a": Reading({}, {})})
    assert history.increase(DROPS, 60) == {}
    assert history.latest(LENGTH) == {}


def test_nothing_is_there_before_the_first_look(history: History) -> None:
    assert history.increase(DROPS, 60) == {}


def test_a_gauge_is_what_each_process_says_now(history: History) -> None:
    history.take(0, {"a": measured(1), "b": measured(2)})
    history.take(5, {"a": measured(3)})
    assert history.latest(LENGTH) == {("a", ""): 3}


def test_six_hours_are_kept_in_few_points(history: History) -> None:
    for at in range(0, int(KEPT_S * 1.2), 5):
        history.take(at, {"a": counted(at)})
    assert total(history, 21_600) == pytest.approx(21_600, abs=2 * COARSE_STEP_S)
    assert total(history, 600) == 600
    assert len(history._points) < KEPT_S / COARSE_STEP_S + FINE_S / 5 + 20
