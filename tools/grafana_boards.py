"""三张 Grafana 仪表板上画什么：总览、投递、节点与依赖。写成文件的是 ``grafana_files.py``。

一张图的标题给看图的人（中文），说明在 Grafana 的“i”里（英文），式子只用
``docs/metrics.md`` 里的指标。
"""

from __future__ import annotations

from typing import Final

from tools.grafana_nodes import NODES
from tools.grafana_panels import (
    Dashboard,
    Panel,
    Section,
    figure,
    of,
    quantiles,
    rate,
    share,
    shared,
    total,
)

_FIRING: Final = 'ALERTS{alertstate="firing"}'
_ALERTS: Final = 'ALERTS{alertstate="firing",alertname!="watchdog"}'

_NOW: Final = Section(
    "此刻",
    (
        figure(
            "正在触发的告警",
            "Alerts firing now, by Prometheus' rules (deploy/prometheus/alerts.yml).",
            f"count({_ALERTS}) or vector(0)",
            "告警",
        ),
        figure("就绪的进程", "Processes that take work, as /readyz says.", total("ready"), "就绪"),
        figure("套接字", "Open user WebSockets, handshakes included.", total("sockets"), "套接字"),
        figure("在线的人", "Users online on any node.", shared("online_users"), "人"),
        figure(
            "队列里的",
            "Entries in all delivery queues.",
            f"sum(max by (queue) ({of('queue_length')}))",
            "条",
        ),
        figure(
            "死信",
            "Entries in the dead-letter queues.",
            shared("dead_letters"),
            "封",
            rule="dead_letters",
        ),
    ),
)

OVERVIEW: Final = Dashboard(
    "meeting-push-overview",
    "meeting-push 总览",
    "How it is: who is here, how much flows, how fast, what fails.",
    (
        _NOW,
        Section(
            "人与消息",
            (
                Panel(
                    "连接",
                    "Authenticated connections, sockets, sockets waiting to be admitted.",
                    (
                        (total("connections"), "连接"),
                        (total("sockets"), "套接字"),
                        (total("connections_waiting"), "等着放行的"),
                    ),
                ),
                Panel(
                    "活跃的人",
                    "Users online or reached in the last minutes, hours and days.",
                    ((shared("active_users", "window"), "{{window}}"),),
                ),
                Panel(
                    "每一站每秒几条",
                    "Recipients accepted, written to mailboxes, frames pushed, first acks.",
                    (
                        (rate("recipients_accepted_total"), "accept"),
                        (rate("recipients_delivered_total"), "deliver"),
                        (rate("frames_pushed_total"), "push"),
                        (rate("recipients_acked_total"), "ack"),
                    ),
                    unit="ops",
                ),
                Panel(
                    "推送延迟",
                    "Accepted to pushed to a connected user (sampled).",
                    quantiles("push_latency_seconds", 0.5, 0.95, 0.99),
                    unit="s",
                ),
                Panel(
                    "送达的比例",
                    "Of the recipients whose delivery ended, the share that acknowledged.",
                    (
                        (
                            share(
                                rate("recipients_ended_total", labels='outcome="delivered"'),
                                rate("recipients_ended_total"),
                            ),
                            "送达",
                        ),
                    ),
                    unit="percentunit",
                    rule="push_success_low",
                ),
                Panel(
                    "为什么没有送达",
                    "Recipients that failed or expired, by class of cause (docs/delivery.md).",
                    ((rate("recipients_undelivered_total", "cause"), "{{cause}}"),),
                    unit="ops",
                ),
            ),
        ),
        Section(
            "门口",
            (
                Panel(
                    "怎样断开的",
                    "Connections that ended, by how.",
                    ((rate("disconnects_total", "how"), "{{how}}"),),
                    unit="ops",
                ),
                Panel(
                    "异常断开的比例",
                    "Ends that are neither 1000, 1001 nor ours on purpose, of all ends.",
                    (
                        (
                            share(rate("abnormal_disconnects_total"), rate("disconnects_total")),
                            "异常",
                        ),
                    ),
                    unit="percentunit",
                    rule="abnormal_disconnects_high",
                ),
                Panel(
                    "拒绝的连接",
                    "User connections refused at the door, by cause.",
                    ((rate("connections_refused_total", "cause"), "{{cause}}"),),
                    unit="ops",
                    rule="authentication_failures_high",
                ),
                Panel(
                    "REST 请求",
                    "REST requests answered, by status.",
                    ((rate("http_requests_total", "status"), "{{status}}"),),
                    unit="reqps",
                ),
                Panel(
                    "REST 耗时",
                    "Until the answer is ready.",
                    quantiles("http_request_duration_seconds", 0.5, 0.95, 0.99),
                    unit="s",
                ),
                Panel(
                    "REST 的错误",
                    "REST requests answered with an error, by code.",
                    ((rate("requests_refused_total", "code"), "{{code}}"),),
                    unit="reqps",
                ),
            ),
        ),
        Section(
            "告警",
            (
                Panel(
                    "正在触发的",
                    "What is firing; the page of the runbook is docs/runbook/<alertname>.md.",
                    ((_FIRING, ""),),
                    kind="table",
                    width=24,
                ),
            ),
        ),
    ),
)

DELIVERY: Final = Dashboard(
    "meeting-push-delivery",
    "meeting-push 投递",
    "Where messages are on their way, and what becomes of them.",
    (
        Section(
            "accept、enqueue、take",
            (
                Panel(
                    "收下的消息",
                    "Messages accepted, by type.",
                    ((rate("messages_accepted_total", "message_type"), "{{message_type}}"),),
                    unit="ops",
                ),
                Panel(
                    "队列的长度",
                    "Entries in each queue.",
                    ((shared("queue_length", "queue"), "{{queue}}"),),
                    rule="queue_nearly_full",
                ),
                Panel(
                    "最老的一条等了多久",
                    "Age of the oldest entry that is due, by queue.",
                    ((shared("queue_oldest_age_seconds", "queue"), "{{queue}}"),),
                    unit="s",
                    rule="queue_lag_high",
                ),
                Panel(
                    "取走而没有了结的",
                    "Taken by consumers and not settled yet, by queue.",
                    ((shared("queue_pending", "queue"), "{{queue}}"),),
                ),
                Panel(
                    "消费者",
                    "Consumers at work, and entries in their hands.",
                    ((total("consumers"), "人手"), (total("entries_in_hand"), "手里的")),
                    rule="consumer_stalled",
                ),
                Panel(
                    "工人的毛病",
                    "Waits for a dependency, claimed from the dead, poison, unreadable.",
                    (
                        (rate("consumer_failures_total"), "等依赖"),
                        (rate("claimed_total"), "认领"),
                        (rate("entries_poisoned_total"), "毒条目"),
                        (rate("entries_malformed_total"), "读不懂"),
                    ),
                    unit="ops",
                ),
            ),
        ),
        Section(
            "deliver、push、ack",
            (
                Panel(
                    "推送延迟",
                    "Accepted to pushed to a connected user (sampled).",
                    quantiles("push_latency_seconds", 0.5, 0.95, 0.99),
                    unit="s",
                ),
                Panel(
                    "确认延迟",
                    "Pushed to acknowledged.",
                    quantiles("ack_latency_seconds", 0.5, 0.95, 0.99),
                    unit="s",
                ),
                Panel(
                    "一秒之内到套接字的比例",
                    "The error budget: of the messages due, those on the socket within 1 s.",
                    ((share(rate("due_pushes_in_time_total"), rate("due_pushes_total")), "及时"),),
                    unit="percentunit",
                    rule="error_budget_burn",
                ),
                Panel(
                    "推了没有确认的",
                    "Messages pushed to connected devices and not acknowledged.",
                    ((total("unacked_messages"), "条"),),
                    rule="unacked_old",
                ),
                Panel(
                    "没有推出去的帧",
                    "Frames not pushed, by reason.",
                    ((rate("drops_total", "reason"), "{{reason}}"),),
                    unit="ops",
                ),
                Panel(
                    "来的时候信箱里有几条",
                    "Entries found in a mailbox when its user connects.",
                    quantiles("mailbox_entries", 0.5, 0.95),
                ),
                Panel(
                    "广播",
                    "Broadcasts heard by the nodes, and those found missing (read again).",
                    (
                        (rate("broadcasts_heard_total"), "听到"),
                        (rate("broadcasts_missed_total"), "漏了"),
                    ),
                    unit="ops",
                ),
            ),
        ),
        Section(
            "confirm、retry、expire",
            (
                Panel(
                    "结局",
                    "Recipients whose delivery ended, by outcome.",
                    ((rate("recipients_ended_total", "outcome"), "{{outcome}}"),),
                    unit="ops",
                    rule="delivery_rate_low",
                ),
                Panel(
                    "没有送达的归哪一类",
                    "Failed or expired, by class of cause (docs/delivery.md).",
                    ((rate("recipients_undelivered_total", "cause"), "{{cause}}"),),
                    unit="ops",
                ),
                Panel(
                    "失败的原因",
                    "Recipients that failed, by reason.",
                    ((rate("delivery_failures_total", "reason"), "{{reason}}"),),
                    unit="ops",
                ),
                Panel(
                    "重试",
                    "Retries claimed; claims given up; failed after the last retry.",
                    (
                        (rate("retries_total"), "重试"),
                        (rate("retry_claims_dropped_total"), "放手"),
                        (rate("no_acks_total"), "用完次数"),
                    ),
                    unit="ops",
                ),
                Panel(
                    "挤出信箱的",
                    "Messages evicted from full mailboxes.",
                    ((rate("mailbox_evictions_total"), "挤出"),),
                    unit="ops",
                    rule="mailboxes_growing",
                ),
                Panel(
                    "死信",
                    "Entries in the dead-letter queues.",
                    ((shared("dead_letters"), "封"),),
                    rule="dead_letters",
                ),
            ),
        ),
        Section(
            "出门的事件",
            (
                Panel(
                    "送出的事件",
                    "Events each receiver took, and those in attempts that failed.",
                    (
                        (rate("events_sent_total", "receiver"), "{{receiver}}"),
                        (rate("events_send_failed_total", "receiver"), "{{receiver}} 没有成"),
                    ),
                    unit="ops",
                ),
                Panel(
                    "等着的事件",
                    "Events that wait for each receiver, and dead letters.",
                    (
                        (total("events_waiting", "receiver"), "{{receiver}}"),
                        (total("events_dead_letters", "receiver"), "{{receiver}} 死信"),
                    ),
                ),
                Panel(
                    "最早的事件等了多久",
                    "Age of the oldest event that waits, by receiver.",
                    ((total("events_oldest_age_seconds", "receiver"), "{{receiver}}"),),
                    unit="s",
                    rule="webhook_failing",
                ),
            ),
        ),
    ),
)

DASHBOARDS: Final = (OVERVIEW, DELIVERY, NODES)
