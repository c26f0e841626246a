"""每条规则的一段：先好，后坏；内置的评估与 Prometheus 各走一遍，都该只触发它。"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

#: 多久一个点。
STEP_S: Final = 10


@dataclass(frozen=True)
class Line:
    """一个指标（不带前缀与 ``_total``）。计数器：每步加多少；别的：多大。"""

    name: str
    calm: float
    bad: float
    labels: dict[str, str] = field(default_factory=dict)
    kind: Literal["counter", "gauge"] = "gauge"

    def values(self, calm_steps: int, bad_steps: int) -> list[float]:
        if self.kind == "gauge":
            return [self.calm] * calm_steps + [self.bad] * bad_steps
        rises = [self.calm] * calm_steps + [self.bad] * bad_steps
        return [sum(rises[:at]) for at in range(len(rises))]


@dataclass(frozen=True)
class Case:
    """``calm_s`` 之后坏 ``bad_s``。"""

    lines: tuple[Line, ...]
    calm_s: int = 600
    bad_s: int = 600

    @property
    def steps(self) -> tuple[int, int]:
        return self.calm_s // STEP_S, self.bad_s // STEP_S


def _gauge(name: str, calm: float, bad: float, **labels: str) -> Line:
    return Line(name, calm, bad, labels)


def _counter(name: str, calm: float, bad: float, **labels: str) -> Line:
    return Line(name, calm, bad, labels, "counter")


def _part(part: str) -> Case:
    return Case((_gauge("part_failing", 0, 1, part=part, process="1"),))


CASES: Final = {
    "push_success_low": Case(
        (
            _counter("recipients_ended", 100, 90, outcome="delivered"),
            _counter("recipients_ended", 0, 5, outcome="failed"),
            _counter("recipients_ended", 1, 5, outcome="expired"),
        )
    ),
    "delivery_rate_low": Case(
        (_counter("live_pushes", 100, 100), _counter("live_acks_in_time", 99, 90))
    ),
    "error_budget_burn": Case(
        (_counter("due_pushes", 1_000, 1_000), _counter("due_pushes_in_time", 1_000, 900)),
        calm_s=3_600,
        bad_s=900,
    ),
    "unacked_old": Case((_gauge("unacked_oldest_age_seconds", 5, 700),)),
    "mailboxes_growing": Case(
        (
            _counter("recipients_accepted", 300, 1_200),
            _counter("recipients_ended", 300, 300, outcome="delivered"),
        ),
        calm_s=2_400,
    ),
    "dead_letters": Case((_gauge("dead_letters", 0, 1),)),
    "abnormal_disconnects_high": Case(
        (_counter("disconnects", 10, 10), _counter("abnormal_disconnects", 0, 1))
    ),
    "authentication_failures_high": Case(
        (
            _counter("auth_failures", 0, 2),
            _counter("meeting_auth_failures", 0, 1),
            _counter("requests_refused", 0, 2, code="bad_credentials"),
            _counter("requests_refused", 50, 50, code="rate_limited"),
        )
    ),
    "redis_unavailable": Case(
        (_gauge("redis_up", 1, 1, process="0"), _gauge("redis_up", 1, 0, process="1"))
    ),
    "redis_slow": Case((_gauge("redis_last_round_trip_seconds", 0.001, 0.2, process="0"),)),
    "database_unavailable": Case((_gauge("database_up", 1, 0, process="0"),)),
    "queue_lag_high": Case(
        (
            _gauge("queue_oldest_age_seconds", 0, 40, queue="priority_message_queue"),
            _gauge("queue_oldest_age_seconds", 600, 600, queue="dead_letter_queue"),
        )
    ),
    "queue_nearly_full": Case((_gauge("queue_fill_ratio", 0.1, 0.9, queue="normal"),)),
    "consumer_stalled": _part("consumers"),
    "node_lost": Case((_counter("nodes_reaped", 0, 1),)),
    "deaf_node": Case(
        (
            _gauge("canary_hearing", 1, 0, state="good", process="1"),
            _gauge("canary_hearing", 0, 1, state="deaf", process="1"),
        )
    ),
    "node_disagrees": _part("agreement"),
    "part_failing": _part("items"),
    "loop_restarting": Case(
        (
            _counter("loop_restarts", 0, 1, loop="relay"),
            _counter("loop_restarts", 0, 0, loop="reconciler"),
        )
    ),
    "clock_skew": Case((_gauge("clock_skew_seconds", 0.1, -7, process="1"),)),
    "resource_usage_high": Case(
        (
            _gauge("resource_usage_ratio", 0.5, 0.9, resource="disk"),
            _gauge("resource_usage_ratio", 0.5, 0.5, resource="cpu"),
        )
    ),
    "notifier_failing": Case((_counter("notices_failed", 0, 1, channel="mail"),)),
    "webhook_failing": Case((_gauge("event_receiver_failing", 0, 1, receiver="h/1a2b3c"),)),
    "watchdog": Case(()),
}
