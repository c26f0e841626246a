"""看的数：增量、重来、新来的与看不见的进程。式子的值：0/0、分母太小、烧得快不快。等着、触发、恢复。"""

from __future__ import annotations

from typing import Final

import msgspec
import pytest

from meeting_push.monitoring.alerts.evaluation import (
    COARSE_STEP_S,
    FINE_S,
    KEPT_S,
    Before,
    History,
    Outcome,
    Reading,
    evaluate,
    step,
)
from meeting_push.monitoring.alerts.model import Severity, Spot, Text
from meeting_push.monitoring.alerts.rule import (
    PROCESS,
    Always,
    Burn,
    Comparison,
    Excess,
    Increase,
    Latest,
    Pair,
    Ratio,
    Rule,
    Selector,
    counter,
    gauge,
    selectors,
)

DROPS = counter("drops")
LENGTH = gauge("length")
GOOD, ALL = Increase((counter("good"),)), Increase((counter("all"),))
HIGH = gauge("high")
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


# ── 式子的值 ─────────────────────────────────────────────────────────────────


def history_of(*steps: dict[str, dict[str, float]], every_s: float = 10) -> History:
    """一个进程的几次；计数器名都在 ``totals``。"""
    history = History(
        [counter("good"), counter("all"), counter("by_loop"), HIGH, gauge("split", "part", "x")]
    )
    for number, figures in enumerate(steps):
        history.take(number * every_s, {"a": Reading(figures, figures)})
    return history


def ratio(part: float, whole: float, at_least: float = 0) -> float | None:
    zero = {"good": {"": 0.0}, "all": {"": 0.0}}
    history = history_of(zero, {"good": {"": part}, "all": {"": whole}})
    return evaluate(Ratio(GOOD, ALL, at_least), history, 60).get(())


def test_a_ratio_is_of_what_was_added_in_the_window() -> None:
    assert ratio(19, 20) == 0.95


def test_nothing_in_the_denominator_is_no_value() -> None:
    assert ratio(0, 0) is None


def test_too_few_in_the_denominator_is_no_value() -> None:
    assert ratio(1, 19, at_least=20) is None
    assert ratio(1, 20, at_least=20) == 0.05


@pytest.mark.parametrize(
    "expression",
    [Ratio(GOOD, ALL), GOOD, Latest(HIGH, "max"), Excess(ALL, GOOD), Burn(GOOD, ALL, 0.9, ())],
)
def test_an_absent_metric_is_no_value(
    expression: Ratio | Increase | Latest | Excess | Burn,
) -> None:
    assert evaluate(expression, history_of({}, {}), 60) == {}


def test_several_counters_add_up() -> None:
    both = Increase(GOOD.of + ALL.of)
    history = history_of({"good": {"": 0}, "all": {"": 0}}, {"good": {"": 1}, "all": {"": 2}})
    assert evaluate(both, history, 60) == {(): 3}


def test_an_excess_is_what_came_less_what_went() -> None:
    history = history_of({"all": {"": 0}, "good": {"": 0}}, {"all": {"": 7}, "good": {"": 5}})
    assert evaluate(Excess(ALL, GOOD), history, 60) == {(): 2}


def test_an_increase_by_label_has_one_value_for_each() -> None:
    history = history_of({"by_loop": {"x": 1, "y": 1}}, {"by_loop": {"x": 3, "y": 1}})
    found = evaluate(Increase((counter("by_loop"),), by="loop"), history, 60)
    assert found == {(("loop", "x"),): 2, (("loop", "y"),): 0}


def test_a_gauge_by_process_says_which_node() -> None:
    history = History([HIGH])
    for_two = {name: Reading({"high": {"": size}}, {}) for name, size in (("a", 1.0), ("b", -5.0))}
    history.take(0, for_two)
    assert evaluate(Latest(HIGH, "max", by=PROCESS, absolute=True), history, 0) == {
        (("node", "a"),): 1,
        (("node", "b"),): 5,
    }
    assert evaluate(Latest(HIGH, "min"), history, 0) == {(): -5}
    assert evaluate(Latest(HIGH, "sum"), history, 0) == {(): -4}


def test_only_the_wanted_labels_count() -> None:
    history = history_of({"split": {"x": 1, "y": 9}})
    assert evaluate(Latest(gauge("split", "part", "x"), "max"), history, 0) == {(): 1}


def burn(bad_long_ago: float, bad_lately: float) -> float | None:
    """长窗口 100 秒、短窗口 10 秒，各 100 条，目标 90 %，一倍。"""
    before = 100 - bad_long_ago
    history = history_of(
        {"good": {"": 0}, "all": {"": 0}},
        {"good": {"": before}, "all": {"": 100}},
        {"good": {"": before}, "all": {"": 100}},
        {"good": {"": before + 100 - bad_lately}, "all": {"": 200}},
    )
    expression = Burn(GOOD, ALL, 0.9, (Pair(100, 10, 1),))
    return evaluate(expression, history, 0).get(())


def test_a_budget_burns_only_when_both_windows_say_so() -> None:
    assert burn(bad_long_ago=40, bad_lately=40) == pytest.approx(4)
    assert burn(bad_long_ago=100, bad_lately=0) == pytest.approx(0)
    assert burn(bad_long_ago=0, bad_lately=30) == pytest.approx(1.5)


def test_always_is_one() -> None:
    assert evaluate(Always(), history_of(), 0) == {(): 1}
    assert selectors(Always()) == ()


# ── 等着、触发、恢复 ─────────────────────────────────────────────────────────


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
