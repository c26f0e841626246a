"""操作页上的数：名字、单位、两种语言的叫法、怎样算出来，都只在这里。

SQL 里的历史（``rollup.py``）与 ``GET /stats/history``、``/stats/figures`` 由此而来；加一个数就是
这里加一行。
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from .alerts.evaluation import History, evaluate
from .alerts.model import Alert, Text
from .alerts.rule import Increase, Latest, Ratio, Selector, counter, gauge, selectors
from .latency import LatencyHistogram
from .report import NodeReport

Unit = Literal["count", "per_s", "ms", "ratio"]


class Now(msgspec.Struct, frozen=True):
    """此刻的；``latest`` 各组的值合成一个。``known_by`` 没有一个进程是 1，就是不知道。"""

    latest: Latest
    total: bool = False
    scale: float = 1
    known_by: Latest | None = None


class Rate(msgspec.Struct, frozen=True):
    """一分钟里平均每秒增加多少。"""

    increase: Increase


class Percentile(msgspec.Struct, frozen=True):
    """各进程最近一分钟的直方图合起来的；毫秒。"""

    latency: str
    percent: float


class Processes(msgspec.Struct, frozen=True):
    """几个进程交了报告。"""


class FiringAlerts(msgspec.Struct, frozen=True):
    """几条告警在触发；只有评估的进程知道。"""


Value = Now | Rate | Ratio | Percentile | Processes | FiringAlerts


class Figure(msgspec.Struct, frozen=True):
    """``how``：几个合成一个（一分钟里的几次，十分钟里的几行）取平均还是取最大。"""

    name: str
    unit: Unit
    label: Text
    value: Value
    how: Literal["mean", "max"] = "mean"


def _rate(name: str, label: Text, *of: Selector) -> Figure:
    return Figure(name, "per_s", label, Rate(Increase(of)))


def _delay(name: str, label: Text, latency: str, percent: float) -> Figure:
    return Figure(name, "ms", label, Percentile(latency, percent), "max")


def _ms(name: str, label: Text, of: Selector, up: str = "", *, absolute: bool = False) -> Figure:
    """以秒计的量里最大的。"""
    known = Latest(gauge(up), "max") if up else None
    value = Now(Latest(of, "max", absolute=absolute), scale=1_000, known_by=known)
    return Figure(name, "ms", label, value, "max")


def _usage(name: str, label: Text, resource: str) -> Figure:
    of = gauge("resource_usage_ratio", "resource", resource)
    return Figure(name, "ratio", label, Now(Latest(of, "max")), "max")


#: 正在走的队列：预约的、死信不算。
_LIVE_QUEUES: Final = ("priority_message_queue", "message_delivery_queue", "bulk_message_queue")

_DELIVERY: Final = (
    _rate("accepted_per_s", Text("收下的消息", "accepted"), counter("messages_accepted")),
    _rate("delivered_per_s", Text("投递进信箱", "delivered"), counter("delivered")),
    _rate("pushed_per_s", Text("推送的帧", "pushed"), counter("frames_pushed")),
    _rate("acked_per_s", Text("收到的确认", "acked"), counter("acks")),
    _rate("failed_per_s", Text("失败", "failed"), counter("recipients_ended", "outcome", "failed")),
    _rate(
        "expired_per_s", Text("过期", "expired"), counter("recipients_ended", "outcome", "expired")
    ),
    Figure(
        "success_ratio",
        "ratio",
        Text("推送成功率", "push success"),
        Ratio(
            Increase((counter("recipients_ended", "outcome", "delivered"),)),
            Increase((counter("recipients_ended"),)),
        ),
    ),
    _delay("push_p50_ms", Text("接受到推送 p50", "accept to push p50"), "push", 50),
    _delay("push_p95_ms", Text("接受到推送 p95", "accept to push p95"), "push", 95),
    _delay("push_p99_ms", Text("接受到推送 p99", "accept to push p99"), "push", 99),
    _delay("ack_p95_ms", Text("推送到确认 p95", "push to ack p95"), "ack", 95),
    Figure(
        "queue_length",
        "count",
        Text("队列里的", "queued"),
        Now(Latest(gauge("queue_length", "queue", *_LIVE_QUEUES), "max", by="queue"), total=True),
    ),
    _ms(
        "queue_lag_ms",
        Text("队列最老的等了", "oldest in queue"),
        gauge("queue_oldest_age_seconds", "queue", *_LIVE_QUEUES[:2]),
    ),
    Figure(
        "dead_letters",
        "count",
        Text("死信", "dead letters"),
        Now(Latest(gauge("dead_letters"), "max")),
        "max",
    ),
    Figure(
        "waiting_recipients",
        "count",
        Text("等着确认的", "waiting for their ack"),
        Now(Latest(gauge("unacked_messages"), "sum")),
    ),
)

_CONNECTIONS: Final = (
    Figure("sockets", "count", Text("连接", "sockets"), Now(Latest(gauge("sockets"), "sum"))),
    Figure(
        "online_users",
        "count",
        Text("在线的人", "users online"),
        Now(Latest(gauge("online_users"), "max")),
    ),
    _rate("closes_per_s", Text("断开", "closes"), counter("disconnects")),
    Figure(
        "abnormal_closes_ratio",
        "ratio",
        Text("其中异常的", "abnormal closes"),
        Ratio(Increase((counter("abnormal_disconnects"),)), Increase((counter("disconnects"),))),
    ),
    _rate(
        "auth_failures_per_s",
        Text("认证失败", "failed authentications"),
        counter("auth_failures"),
        counter("meeting_auth_failures"),
    ),
)

_PARTS: Final = (
    _ms(
        "redis_round_trip_ms",
        Text("Redis 往返", "Redis round trip"),
        gauge("redis_last_round_trip_seconds"),
        "redis_up",
    ),
    _ms(
        "database_round_trip_ms",
        Text("数据库往返", "database round trip"),
        gauge("database_last_round_trip_seconds"),
        "database_up",
    ),
    _usage("cpu_ratio", Text("处理器", "CPU"), "cpu"),
    _usage("memory_ratio", Text("内存", "memory"), "memory"),
    _usage("disk_ratio", Text("磁盘", "disk"), "disk"),
    _usage("open_files_ratio", Text("打开的文件", "open files"), "open_files"),
    _ms("loop_lag_ms", Text("事件循环迟了", "event loop lag"), gauge("event_loop_lag_max_seconds")),
    _ms("clock_skew_ms", Text("钟差", "clock skew"), gauge("clock_skew_seconds"), absolute=True),
    _rate(
        "old_rows_removed_per_s",
        Text("清理掉的旧行", "old rows removed"),
        counter("retention_removed"),
    ),
    Figure("nodes", "count", Text("进程", "processes"), Processes()),
    Figure("alerts_firing", "count", Text("在触发的告警", "alerts firing"), FiringAlerts(), "max"),
)

FIGURES: Final = {one.name: one for one in (*_CONNECTIONS, *_DELIVERY, *_PARTS)}

#: 规则 → 它触发时值得看的几条曲线；别处来的告警没有。
OF_RULES: Final[dict[str, tuple[str, ...]]] = {
    "push_success_low": ("success_ratio", "failed_per_s", "expired_per_s", "acked_per_s"),
    "delivery_rate_low": ("pushed_per_s", "acked_per_s", "ack_p95_ms", "waiting_recipients"),
    "error_budget_burn": ("push_p50_ms", "push_p95_ms", "push_p99_ms", "queue_lag_ms"),
    "unacked_old": ("waiting_recipients", "acked_per_s", "ack_p95_ms"),
    "mailboxes_growing": ("waiting_recipients", "accepted_per_s", "acked_per_s"),
    "dead_letters": ("dead_letters", "failed_per_s"),
    "abnormal_disconnects_high": ("abnormal_closes_ratio", "closes_per_s", "sockets"),
    "authentication_failures_high": ("auth_failures_per_s", "closes_per_s"),
    "redis_unavailable": ("redis_round_trip_ms", "pushed_per_s", "sockets"),
    "redis_slow": ("redis_round_trip_ms", "queue_lag_ms", "push_p95_ms"),
    "database_unavailable": ("database_round_trip_ms", "accepted_per_s"),
    "queue_lag_high": ("queue_lag_ms", "queue_length", "accepted_per_s", "delivered_per_s"),
    "queue_nearly_full": ("queue_length", "accepted_per_s", "delivered_per_s"),
    "consumer_stalled": ("queue_lag_ms", "queue_length", "delivered_per_s"),
    "node_lost": ("nodes", "sockets"),
    "deaf_node": ("pushed_per_s", "acked_per_s", "sockets"),
    "node_disagrees": ("nodes", "clock_skew_ms"),
    "part_failing": ("nodes", "redis_round_trip_ms", "database_round_trip_ms"),
    "loop_restarting": ("loop_lag_ms", "nodes"),
    "clock_skew": ("clock_skew_ms",),
    "resource_usage_high": ("cpu_ratio", "memory_ratio", "disk_ratio", "open_files_ratio"),
    "notifier_failing": ("alerts_firing",),
    "webhook_failing": ("alerts_firing",),
    "watchdog": ("alerts_firing",),
}


# ── 算出来 ───────────────────────────────────────────────────────────────────


class Seen(NamedTuple):
    """评估的一轮看见的。``whole``：全体都看得见；``firing`` 为 None：不由这个进程评估。"""

    reports: Sequence[NodeReport]
    history: History
    at: float
    whole: bool
    firing: Sequence[Alert] | None


def watched(figures: Iterable[Figure]) -> list[Selector]:
    """它们用到的全部指标。"""
    found: list[Selector] = []
    for figure in figures:
        match figure.value:
            case Now(latest=latest, known_by=known_by):
                found += [latest.of, *([known_by.of] if known_by else [])]
            case Rate(increase=increase):
                found += increase.of
            case Ratio() as ratio:
                found += selectors(ratio)
            case _:
                pass
    return found


def reading(value: Value, seen: Seen) -> float | None:
    """此刻看得见的一个数；None：不知道，或它是一分钟才有的（见 ``over``）。"""
    match value:
        case Now():
            return _now(value, seen.history)
        case Processes():
            return len(seen.reports)
        case FiringAlerts():
            return None if seen.firing is None else len(seen.firing)
        case _:
            return None


def over(value: Value, seen: Seen, window_s: float) -> float | None:
    """最近 ``window_s`` 里的一个数；None：没有，或分母是零，或它是此刻的（见 ``reading``）。"""
    match value:
        case Rate(increase=increase):
            added = evaluate(increase, seen.history, window_s).get(())
            return None if added is None else added / window_s
        case Ratio() as ratio:
            return evaluate(ratio, seen.history, window_s).get(())
        case Percentile(latency=latency, percent=percent):
            merged = LatencyHistogram()
            for report in seen.reports:
                merged = merged.merge(report.latency.get(latency, LatencyHistogram()))
            return merged.percentile(percent) if merged.count else None
        case _:
            return None


def _now(value: Now, history: History) -> float | None:
    if value.known_by is not None and not any(evaluate(value.known_by, history, 0).values()):
        return None
    found = evaluate(value.latest, history, 0).values()
    if not found:
        return None
    return (sum(found) if value.total else max(found)) * value.scale
