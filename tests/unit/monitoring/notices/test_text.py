"""一份通知写成字：说了该说的；装不下时不切开字，规则的 id 一个也不少。"""

from __future__ import annotations

from datetime import UTC, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meeting_push.monitoring.alerts.model import Alert, AlertState, Notice, Severity, Text
from meeting_push.monitoring.notices.channel import Language
from meeting_push.monitoring.notices.text import NoticeWriter, cut
from tests.support.notices import alert, notice, resolved

BEIJING = timezone(timedelta(hours=8))
WRITER = NoticeWriter(
    site="https://push.example", show=lambda _, value: f"{value * 1000:g} ms", zone=BEIJING
)
RULES = [f"rule_number_{n}" for n in range(22)]

alerts = st.builds(
    lambda n, rule, text, state: alert(f"a{n}", rule, summary=Text(text, text), state=state),
    st.integers(),
    st.sampled_from(RULES),
    st.text(max_size=200),
    st.sampled_from(AlertState),
)


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("zh", ["firing", "警告", "Redis 往返慢", "当前 250 ms", "阈值 100 ms", "始于"]),
        ("en", ["firing", "warning", "Redis is slow", "value 250 ms", "threshold 100 ms"]),
    ],
)
def test_it_says_what_somebody_needs_to_know(language: Language, words: list[str]) -> None:
    for written in (WRITER.plain, WRITER.markdown):
        text = written(notice(), language, 10_000)
        for word in [*words, "redis_slow", "2025-11-30 18:53:20 +0800", "node=n1"]:
            assert word in text
        assert f"docs/{alert().runbook}" in text
        assert "https://push.example/ops" in text


def test_without_a_site_the_path_is_said() -> None:
    text = NoticeWriter(zone=UTC).plain(notice(), "zh", 10_000)
    assert "运维页: /ops" in text
    assert "2025-11-30 10:53:20 +0000" in text


def test_a_runbook_elsewhere_is_its_address() -> None:
    text = WRITER.plain(notice(alert(runbook="https://wiki.example/x")), "en", 10_000)
    assert "runbook https://wiki.example/x" in text


def test_a_recovery_says_since_when_and_until_when() -> None:
    text = WRITER.plain(notice(resolved()), "en", 10_000)
    assert "resolved" in text
    assert "resolved at 2025-11-30 18:54:20 +0800" in text


def test_what_still_fires_and_is_grave_comes_first() -> None:
    several = notice(
        resolved("a", "node_lost", severity=Severity.CRITICAL),
        alert("b", "clock_skew"),
        alert("c", "dead_letters", severity=Severity.CRITICAL),
    )
    text = WRITER.plain(several, "en", 10_000).partition("\n")[2]
    assert text.index("dead_letters") < text.index("clock_skew") < text.index("node_lost")


@pytest.mark.parametrize(
    ("given_", "mark"), [({"is_test": True}, "TEST"), ({"is_escalation": True}, "ESCALATED")]
)
def test_a_test_and_an_escalation_are_marked(given_: dict[str, bool], mark: str) -> None:
    marked = Notice(notice_id="n", alerts=(alert(),), **given_)
    assert mark in WRITER.title(marked, "en")
    assert mark in WRITER.plain(marked, "en", 10_000)


def test_a_name_from_elsewhere_makes_no_second_line_and_no_link() -> None:
    odd = alert(labels={"node": "a\n# b [x](http://evil) <b>"}, summary=Text("x\ny", "x\ny"))
    text = WRITER.markdown(notice(odd), "en", 10_000)
    assert "\n# b" not in text
    assert "](http://evil" not in text
    assert "<b>" not in text


def test_a_thousand_alerts_are_told_by_their_rules_and_counts() -> None:
    thousand = [alert(f"a{n}", RULES[n % 22]) for n in range(1000)]
    text = WRITER.markdown(notice(*thousand), "zh", 4_096)
    assert len(text.encode()) <= 4_096
    for rule in RULES:
        assert f"{rule} ×4" in text
    assert "另有" in text


@given(st.lists(alerts, min_size=1, max_size=40), st.integers(2_000, 5_000))
def test_a_truncated_notice_fits_and_drops_no_rule(several: list[Alert], most: int) -> None:
    for language in ("zh", "en"):
        for written in (WRITER.plain, WRITER.markdown):
            text = written(notice(*several), language, most)
            assert len(text.encode()) <= most
            assert {one.rule for one in several} <= {rule for rule in RULES if rule in text}
            assert "/ops" in text


@given(st.text(), st.integers(-5, 100))
def test_a_cut_never_splits_a_character(text: str, most: int) -> None:
    short = cut(text, most)
    assert len(short.encode()) <= max(0, most)
    assert short == text or text.startswith(short.removesuffix("…"))
