"""告警的文件：改得了什么，写错了说什么。"""

from __future__ import annotations

from pathlib import Path

import pytest

from meeting_push.errors import ConfigurationError
from meeting_push.monitoring.alerts.config import ActionConfig, load_alerts
from meeting_push.monitoring.alerts.model import Severity
from meeting_push.monitoring.alerts.rules import RULES


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "alerts.yml"
    path.write_text(text)
    return path


def test_without_a_file_the_rules_are_the_built_in_ones() -> None:
    assert load_alerts(None).rules == RULES


def test_what_is_not_named_keeps_its_default(tmp_path: Path) -> None:
    text = """
rules:
  redis_unavailable: {for_s: 2, severity: warning}
  delivery_rate_low: {threshold: 0.97, window_s: 600}
  watchdog: {enabled: true}
"""
    rules = load_alerts(written(tmp_path, text)).rules
    redis, rate = rules["redis_unavailable"], rules["delivery_rate_low"]
    assert (redis.for_s, redis.severity) == (2, Severity.WARNING)
    assert redis.threshold == RULES["redis_unavailable"].threshold
    assert (rate.threshold, rate.window_s, rate.for_s) == (0.97, 600, 60)
    assert rules["watchdog"].enabled
    assert rules["redis_slow"] == RULES["redis_slow"]


def test_the_sections_of_notices_are_handed_on_as_they_are(tmp_path: Path) -> None:
    text = "channels: [{name: log, url: 'log://'}]\nescalate: []\n"
    assert load_alerts(written(tmp_path, text)).notices == {
        "channels": [{"name": "log", "url": "log://"}],
        "escalate": [],
    }


def test_actions_that_others_would_notice_are_off_until_asked_for(tmp_path: Path) -> None:
    assert load_alerts(None).actions == ActionConfig(
        resubscribe=True,
        restart_stalled_loop=True,
        pause_accepting=False,
        requeue_dead_letters=False,
    )
    text = "actions: {pause_accepting: true, resubscribe: false}"
    actions = load_alerts(written(tmp_path, text)).actions
    assert actions == ActionConfig(resubscribe=False, pause_accepting=True)


@pytest.mark.parametrize(
    "text", ["actions: {reboot: true}", "actions: {resubscribe: 1}", "actions: [resubscribe]"]
)
def test_an_action_that_is_not_one_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="actions: "):
        load_alerts(written(tmp_path, text))


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_alerts(written(tmp_path, "")).rules == RULES
    assert load_alerts(written(tmp_path, "rules:\n")).rules == RULES


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: {redis_down: {}}", "unknown rule redis_down"),
        ("rules: {redis_slow: {metric: sunshine}}", "metric"),
        ("rules: {redis_slow: {unit: furlongs}}", "unit"),
        ("rules: {redis_slow: {severity: grave}}", "grave"),
        ("rules: {redis_slow: {for_s: -1}}", "for_s"),
        ("rules: {redis_slow: {for_s: yes}}", "for_s"),
        ("rules: {redis_slow: {threshold: .nan}}", "finite"),
        ("rules: {redis_slow: {threshold: high}}", "threshold"),
        ("rules: {redis_slow: {window_s: 60}}", "window"),
        ("rules: {push_success_low: {window_s: 0}}", "window_s"),
        ("rules: {push_success_low: {window_s: 999999}}", "window_s"),
        ("rules: {redis_slow: {}, redis_slow: {}}", "twice"),
        ("rules: [redis_slow]", "rules must be a map"),
        ("rules: {1: {}}", "rules must be a map"),
        ("- a", "the file must be a map"),
        ("channel: []", "unknown key channel"),
        ("rules: {", "line 1"),
        ("rules: !!python/object:os.system {}", "line 1"),
        ("\x00", "not YAML"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError) as refused:
        load_alerts(path)
    assert said in refused.value.message
    assert str(path) in refused.value.message
    assert "\n" not in refused.value.message


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can not be read"):
        load_alerts(tmp_path / "none.yml")
