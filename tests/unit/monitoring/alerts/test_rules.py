"""每条总在的规则：好的时候不触发，坏了触发，别的不跟着触发；有手册，有生成的文件。"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest
import yaml

from meeting_push.monitoring.alerts.evaluation import Before, History, Outcome, Reading, step
from meeting_push.monitoring.alerts.model import Labels, Spot
from meeting_push.monitoring.alerts.rule import selectors
from meeting_push.monitoring.alerts.rules import RULES
from meeting_push.monitoring.metrics import PREFIX
from tests.support.alert_cases import CASES, STEP_S, Case, Line
from tests.support.citations import DOCS, ROOT
from tools.prometheus_files import FOLDER, files

#: 契约写着的。
PROMISED: Final = {
    *("push_success_low", "abnormal_disconnects_high", "redis_unavailable", "redis_slow"),
    *("resource_usage_high", "delivery_rate_low", "database_unavailable", "queue_lag_high"),
    *("queue_nearly_full", "dead_letters", "unacked_old", "mailboxes_growing", "node_lost"),
    *("deaf_node", "node_disagrees", "consumer_stalled", "loop_restarting"),
    *("authentication_failures_high", "error_budget_burn", "notifier_failing", "clock_skew"),
    "watchdog",
}
HEADINGS: Final = (*("是什么意思", "怎样看到它", "现在做什么", "怎样知道好了", "怎样不再发生"),)
#: 练得了的才有。
DRILL: Final = "练一练"


def test_every_promised_rule_exists() -> None:
    assert set(RULES) >= PROMISED
    assert set(RULES) == set(CASES)


def _readings(case: Case) -> Iterator[dict[str, Reading]]:
    """一步一步，各进程的数。"""
    values = [(line, line.values(*case.steps)) for line in case.lines]
    for at in range(sum(case.steps)):
        found: dict[str, Reading] = {"0": Reading({}, {})}
        for line, series in values:
            reading = found.setdefault(line.labels.get("process", "0"), Reading({}, {}))
            figures = reading.totals if line.kind == "counter" else reading.gauges
            figures.setdefault(line.name, {})[_label(line)] = series[at]
        yield found


def _label(line: Line) -> str:
    return ",".join(value for name, value in line.labels.items() if name != "process")


def _firing(case: Case) -> list[set[Spot]]:
    """每一步之后在触发的。"""
    rules = {i: msgspec.structs.replace(one, enabled=True) for i, one in RULES.items()}
    history = History(s for rule in rules.values() for s in selectors(rule.expression))
    state, firing, found = Outcome({}, {}, []), set[Spot](), list[set[Spot]]()
    for number, readings in enumerate(_readings(case)):
        at = number * STEP_S
        history.take(at, readings)
        state = step(rules, history, Before(state.pending, firing), at * 1_000)
        firing = (firing | set(state.fired)) - set(state.resolved)
        found.append(set(firing))
    return found


@pytest.mark.parametrize("rule_id", CASES)
def test_it_fires_when_it_is_bad_and_nothing_else_does(rule_id: str) -> None:
    case = CASES[rule_id]
    firing = _firing(case)
    calm = {spot.rule_id for spot in firing[case.steps[0] - 1]} - {"watchdog"}
    bad = {spot.rule_id for spot in firing[-1]} - {"watchdog"}
    assert (calm, bad) == (set(), {rule_id} - {"watchdog"})


@pytest.mark.parametrize(
    ("rule_id", "labels"),
    [
        ("resource_usage_high", (("resource", "disk"),)),
        ("queue_lag_high", (("queue", "priority_message_queue"),)),
        ("loop_restarting", (("loop", "relay"),)),
        ("deaf_node", (("node", "1"),)),
        ("redis_unavailable", ()),
    ],
)
def test_an_alert_says_where(rule_id: str, labels: Labels) -> None:
    assert Spot(rule_id, labels) in _firing(CASES[rule_id])[-1]


@pytest.mark.parametrize("rule_id", RULES)
def test_nothing_known_is_not_firing(rule_id: str) -> None:
    firing = _firing(Case((), bad_s=3_600))
    assert {spot.rule_id for spot in firing[-1]} == {"watchdog"}


@pytest.mark.parametrize("rule_id", RULES)
def test_every_word_of_a_summary_is_known(rule_id: str) -> None:
    labels: dict[str, str] = {}
    for spot in _firing(CASES[rule_id])[-1]:
        if spot.rule_id == rule_id:
            labels = dict(spot.labels)
    for text in RULES[rule_id].say(1.5, labels):
        assert "{" not in text


def test_a_brace_in_a_label_is_not_read_again() -> None:
    said = RULES["queue_lag_high"].say(40, {"queue": "{threshold}{"})
    assert "{threshold}{" in said.en


# ── 手册与生成的文件 ─────────────────────────────────────────────────────────


@pytest.mark.parametrize("rule_id", RULES)
def test_every_rule_has_its_page_of_the_runbook(rule_id: str) -> None:
    text = (DOCS / RULES[rule_id].page).read_text()
    assert text.startswith(f"# {rule_id}")
    headings = tuple(re.findall(r"^## (.+)$", text, re.MULTILINE))
    assert headings in {HEADINGS, (*HEADINGS, DRILL)}
    assert all(part.strip() for part in re.split(r"^#+ .+$", text, flags=re.MULTILINE)[2:])


def test_every_page_of_the_runbook_has_its_rule() -> None:
    pages = {path.stem for path in (DOCS / "runbook").glob("*.md")} - {"README"}
    assert pages == set(RULES)


def test_the_files_for_prometheus_are_current() -> None:
    found = {path.name: path.read_text() for path in FOLDER.glob("*.yml")}
    assert found == files(dict(RULES))


def test_every_rule_is_in_the_file_for_prometheus() -> None:
    written: Any = yaml.safe_load((FOLDER / "alerts.yml").read_text())
    (group,) = written["groups"]
    assert [rule["alert"] for rule in group["rules"]] == list(RULES)
    assert (ROOT / "docs" / "runbook").is_dir()


def metrics_named(text: str) -> set[str]:
    return set(re.findall(rf"\b{PREFIX}\w+", text))


def test_the_files_name_no_metric_the_rules_do_not() -> None:
    named = {
        PREFIX + one.name + ("_total" if one.kind == "counter" else "")
        for rule in RULES.values()
        for one in selectors(rule.expression)
    }
    assert metrics_named((FOLDER / "alerts.yml").read_text()) == named
