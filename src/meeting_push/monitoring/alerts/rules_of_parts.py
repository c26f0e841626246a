"""总在的规则：Redis、数据库、队列、节点、机器。"""

from __future__ import annotations

from typing import Final

from .model import Severity, Text
from .rule import PROCESS, Comparison, Increase, Latest, Rule, counter, gauge

_STORES: Final = (
    Rule(
        rule_id="redis_unavailable",
        expression=Latest(gauge("redis_up"), "min"),
        comparison=Comparison.BELOW,
        threshold=1,
        unit="state",
        for_s=5,
        severity=Severity.CRITICAL,
        summary=Text("Redis 连不上，或不收写入", "Redis can not be reached, or takes no writes"),
    ),
    Rule(
        rule_id="redis_slow",
        expression=Latest(gauge("redis_last_round_trip_seconds"), "max"),
        comparison=Comparison.ABOVE,
        threshold=0.1,
        unit="seconds",
        for_s=15,
        severity=Severity.WARNING,
        summary=Text(
            "Redis 一次往返要 {value}（限 {threshold}）",
            "a round trip to Redis takes {value} (limit {threshold})",
        ),
    ),
    Rule(
        rule_id="database_unavailable",
        expression=Latest(gauge("database_up"), "min"),
        comparison=Comparison.BELOW,
        threshold=1,
        unit="state",
        for_s=5,
        severity=Severity.CRITICAL,
        summary=Text(
            "数据库连不上，或不收写入", "the database can not be reached, or takes no writes"
        ),
    ),
)

_QUEUES: Final = (
    Rule(
        rule_id="queue_lag_high",
        # 慢的那条等得久是应该的，死信、预约的也是
        expression=Latest(
            gauge(
                "queue_oldest_age_seconds",
                "queue",
                *("message_delivery_queue", "priority_message_queue"),
            ),
            "max",
            by="queue",
        ),
        comparison=Comparison.ABOVE,
        threshold=30,
        unit="seconds",
        for_s=30,
        severity=Severity.WARNING,
        summary=Text(
            "队列 {queue} 最老的条目等了 {value}（限 {threshold}）",
            "the oldest entry of {queue} has waited {value} (limit {threshold})",
        ),
    ),
    Rule(
        rule_id="queue_nearly_full",
        expression=Latest(gauge("queue_fill_ratio"), "max", by="queue"),
        comparison=Comparison.ABOVE,
        threshold=0.8,
        unit="ratio",
        for_s=30,
        severity=Severity.CRITICAL,
        summary=Text(
            "队列 {queue} 满了 {value}（限 {threshold}），再满就拒绝新消息",
            "{queue} is {value} full (limit {threshold}); when full, new messages are refused",
        ),
    ),
    Rule(
        rule_id="consumer_stalled",
        expression=Latest(gauge("part_failing", "part", "consumers"), "max", by=PROCESS),
        comparison=Comparison.ABOVE,
        threshold=0,
        unit="state",
        for_s=15,
        severity=Severity.CRITICAL,
        summary=Text(
            "进程 {node} 的消费者有活而没有进展",
            "the consumers of {node} have work and make no progress",
        ),
    ),
)

_NODES: Final = (
    Rule(
        rule_id="node_lost",
        expression=Increase((counter("nodes_reaped"),)),
        comparison=Comparison.ABOVE,
        threshold=0,
        unit="count",
        window_s=300,
        severity=Severity.WARNING,
        summary=Text(
            "{window} 里有 {value} 个节点不告而别",
            "{value} nodes were lost in {window} without saying goodbye",
        ),
    ),
    Rule(
        rule_id="deaf_node",
        expression=Latest(gauge("canary_hearing", "state", "deaf", "lost"), "max", by=PROCESS),
        comparison=Comparison.ABOVE,
        threshold=0,
        unit="state",
        for_s=5,
        severity=Severity.CRITICAL,
        summary=Text(
            "进程 {node} 听不见 Redis 的发布", "{node} does not hear what Redis publishes"
        ),
    ),
    Rule(
        rule_id="node_disagrees",
        expression=Latest(gauge("part_failing", "part", "agreement", "fleet"), "max", by=PROCESS),
        comparison=Comparison.ABOVE,
        threshold=0,
        unit="state",
        for_s=30,
        severity=Severity.WARNING,
        summary=Text(
            "进程 {node} 与别的节点不合（数据库、钥匙、钟或版本）",
            "{node} disagrees with the others (database, keys, clock or version)",
        ),
    ),
    Rule(
        rule_id="part_failing",
        expression=Latest(
            gauge(
                "part_failing",
                "part",
                *("subscriber", "canary", "clients", "claim", "meetings", "items"),
            ),
            "max",
            by="part",
        ),
        comparison=Comparison.ABOVE,
        threshold=0,
        unit="state",
        for_s=30,
        severity=Severity.WARNING,
        summary=Text(
            "就绪检查的 {part} 不好，见 /readyz", "the part {part} is failing, see /readyz"
        ),
    ),
    Rule(
        rule_id="loop_restarting",
        expression=Increase((counter("loop_restarts"),), by="loop"),
        comparison=Comparison.ABOVE,
        threshold=2,
        unit="count",
        window_s=300,
        severity=Severity.WARNING,
        summary=Text(
            "循环 {loop} {window} 里死了又起 {value} 次",
            "the loop {loop} died and was restarted {value} times in {window}",
        ),
    ),
    Rule(
        rule_id="clock_skew",
        expression=Latest(gauge("clock_skew_seconds"), "max", by=PROCESS, absolute=True),
        comparison=Comparison.ABOVE,
        threshold=5,
        unit="seconds",
        for_s=30,
        severity=Severity.WARNING,
        summary=Text(
            "进程 {node} 的钟与 Redis、数据库差 {value}（限 {threshold}）",
            "the clock of {node} is {value} off those of Redis and the database"
            " (limit {threshold})",
        ),
    ),
    Rule(
        rule_id="resource_usage_high",
        expression=Latest(gauge("resource_usage_ratio"), "max", by="resource"),
        comparison=Comparison.ABOVE,
        threshold=0.8,
        unit="ratio",
        for_s=60,
        severity=Severity.WARNING,
        summary=Text(
            "资源 {resource} 用了 {value}（限 {threshold}）",
            "{value} of {resource} is used (limit {threshold})",
        ),
    ),
)

PARTS: Final = (*_STORES, *_QUEUES, *_NODES)
