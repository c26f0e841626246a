"""总在的规则：消息送到了没有、连接、自己的告警。

依赖与节点的在 ``rules_of_parts.py``。改了之后跑 ``tools/prometheus_files.py``；处置手册在
``docs/runbook/``。
"""

from __future__ import annotations

from typing import Final

from .model import Severity, Text
from .rule import (
    Always,
    Burn,
    Comparison,
    Excess,
    Increase,
    Latest,
    Pair,
    Ratio,
    Rule,
    counter,
    gauge,
)
from .rules_of_parts import PARTS

_DELIVERY: Final = (
    Rule(
        rule_id="push_success_low",
        expression=Ratio(
            Increase((counter("recipients_ended", "outcome", "delivered"),)),
            Increase((counter("recipients_ended"),)),
        ),
        comparison=Comparison.BELOW,
        threshold=0.95,
        unit="ratio",
        window_s=300,
        for_s=60,
        severity=Severity.CRITICAL,
        summary=Text(
            "推送成功率 {value}，低于 {threshold}（最近 {window} 有结局的收件人）",
            "push success is {value}, below {threshold} (recipients that ended in {window})",
        ),
    ),
    Rule(
        rule_id="delivery_rate_low",
        expression=Ratio(
            Increase((counter("live_acks_in_time"),)),
            Increase((counter("live_pushes"),)),
            at_least=20,
        ),
        comparison=Comparison.BELOW,
        threshold=0.95,
        unit="ratio",
        window_s=300,
        for_s=60,  # 刚推出去的还没有到 30 秒：一阵突发过后才算数
        severity=Severity.WARNING,
        summary=Text(
            "在线的人 30 秒内确认的只有 {value}，低于 {threshold}（最近 {window}）",
            "only {value} of pushes to online users are acked within 30 s, below {threshold}"
            " ({window})",
        ),
    ),
    Rule(
        rule_id="error_budget_burn",
        expression=Burn(
            Increase((counter("due_pushes_in_time"),)),
            Increase((counter("due_pushes"),)),
            objective=0.999,
            pairs=(Pair(3_600, 300, 14.4), Pair(21_600, 1_800, 6)),
        ),
        comparison=Comparison.ABOVE,
        threshold=1,
        unit="times",
        severity=Severity.CRITICAL,
        summary=Text(
            "“99.9 % 在 1 秒内推到”的错误预算烧得太快：是允许的 {value}",
            "the error budget of 99.9 % pushed within 1 s burns too fast: {value} what is allowed",
        ),
    ),
    Rule(
        rule_id="unacked_old",
        expression=Latest(gauge("unacked_oldest_age_seconds"), "max"),
        comparison=Comparison.ABOVE,
        threshold=600,
        unit="seconds",
        for_s=60,
        severity=Severity.WARNING,
        summary=Text(
            "在线的人手里最老的未确认消息已有 {value}（限 {threshold}）",
            "the oldest un-acked message of an online user is {value} old (limit {threshold})",
        ),
    ),
    Rule(
        rule_id="mailboxes_growing",
        expression=Excess(
            Increase((counter("recipients_accepted"),)),
            Increase((counter("recipients_ended"),)),
        ),
        comparison=Comparison.ABOVE,
        threshold=10_000,
        unit="count",
        window_s=1_800,
        for_s=300,
        severity=Severity.WARNING,
        summary=Text(
            "还没有结局的收件人 {window} 里多了 {value}（限 {threshold}）",
            "recipients that wait grew by {value} in {window} (limit {threshold})",
        ),
    ),
    Rule(
        rule_id="dead_letters",
        expression=Latest(gauge("dead_letters"), "max"),
        comparison=Comparison.ABOVE,
        threshold=0,
        unit="count",
        severity=Severity.WARNING,
        summary=Text("死信队列里有 {value} 条", "there are {value} dead letters"),
    ),
)

_CONNECTIONS: Final = (
    Rule(
        rule_id="abnormal_disconnects_high",
        expression=Ratio(
            Increase((counter("abnormal_disconnects"),)),
            Increase((counter("disconnects"),)),
            at_least=20,
        ),
        comparison=Comparison.ABOVE,
        threshold=0.05,
        unit="ratio",
        window_s=300,
        for_s=60,
        severity=Severity.WARNING,
        summary=Text(
            "异常断开占 {value}，高于 {threshold}（最近 {window}）",
            "{value} of disconnects are abnormal, above {threshold} ({window})",
        ),
    ),
    Rule(
        rule_id="authentication_failures_high",
        expression=Increase(
            (
                counter("auth_failures"),
                counter("meeting_auth_failures"),
                counter(
                    "requests_refused",
                    "code",
                    *("unauthenticated", "invalid_token", "bad_credentials", "bad_key"),
                ),
            )
        ),
        comparison=Comparison.ABOVE,
        threshold=100,
        unit="count",
        window_s=300,
        severity=Severity.WARNING,
        summary=Text(
            "{window} 里认证失败 {value} 次（限 {threshold}）",
            "{value} failed authentications in {window} (limit {threshold})",
        ),
    ),
)

_ALERTING: Final = (
    Rule(
        rule_id="notifier_failing",
        expression=Increase((counter("notices_failed"),), by="channel"),
        comparison=Comparison.ABOVE,
        threshold=0,
        unit="count",
        window_s=600,
        severity=Severity.WARNING,
        summary=Text(
            "通知渠道 {channel} {window} 里失败了 {value} 次",
            "the channel {channel} failed {value} times in {window}",
        ),
    ),
    Rule(
        rule_id="webhook_failing",
        expression=Latest(gauge("event_receiver_failing"), "max", by="receiver"),
        comparison=Comparison.ABOVE,
        threshold=0,
        unit="state",
        severity=Severity.WARNING,
        summary=Text(
            "接收者 {receiver} 收不到事件：停了、有死信，或最早的等了 10 分钟",
            "the receiver {receiver} gets no events: gone, dead letters, or the oldest waits for"
            " 10 minutes",
        ),
    ),
    Rule(
        rule_id="watchdog",
        expression=Always(),
        comparison=Comparison.ABOVE,
        threshold=0,
        unit="state",
        severity=Severity.INFO,
        enabled=False,
        summary=Text(
            "告警还活着：这一条总在触发，收不到才是出事",
            "alerting is alive: this one always fires, its absence is the alarm",
        ),
    ),
)

RULES: Final = {rule.rule_id: rule for rule in (*_DELIVERY, *_CONNECTIONS, *PARTS, *_ALERTING)}
