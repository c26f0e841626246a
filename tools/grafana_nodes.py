"""Grafana 的节点与依赖那一张：每个进程、Redis、数据库、机器。"""

from __future__ import annotations

from typing import Final

from tools.grafana_panels import Dashboard, Panel, Section, of, quantiles, rate, shared

_PROCESS: Final = "{{instance}} {{process}}"
_LOUD: Final = 'level=~"WARNING|ERROR|CRITICAL"'

NODES: Final = Dashboard(
    "meeting-push-nodes",
    "meeting-push 节点与依赖",
    "Each process, Redis, the database, the machine.",
    (
        Section(
            "进程",
            (
                Panel("就绪", "1 = takes work.", ((of("ready"), _PROCESS),), rule="part_failing"),
                Panel(
                    "不好的一项",
                    "Parts of the readiness check that fail.",
                    ((f"sum by (instance, part) ({of('part_failing')})", "{{instance}} {{part}}"),),
                    rule="part_failing",
                ),
                Panel(
                    "循环重启",
                    "Supervised loops restarted after an error.",
                    ((rate("loop_restarts_total", "loop"), "{{loop}}"),),
                    unit="ops",
                    rule="loop_restarting",
                ),
                Panel(
                    "事件循环迟多少",
                    "Largest lateness of the event loop in the last minute.",
                    ((of("event_loop_lag_max_seconds"), _PROCESS),),
                    unit="s",
                ),
                Panel(
                    "CPU",
                    "Of one core.",
                    ((f"rate({of('process_cpu_seconds_total')}[$__rate_interval])", _PROCESS),),
                    unit="percentunit",
                ),
                Panel(
                    "内存",
                    "Resident memory.",
                    ((of("process_resident_memory_bytes"), _PROCESS),),
                    unit="bytes",
                ),
                Panel("打开的文件", "Open descriptors.", ((of("process_open_fds"), _PROCESS),)),
                Panel(
                    "垃圾回收",
                    "Pauses of garbage collection.",
                    quantiles("gc_pause_seconds", 0.5, 0.99),
                    unit="s",
                ),
                Panel(
                    "警告与错误",
                    "Log events said, by event.",
                    ((f"topk(10, {rate('log_events_total', 'event', _LOUD)})", "{{event}}"),),
                    unit="ops",
                ),
            ),
        ),
        Section(
            "听力与钟",
            (
                Panel(
                    "听力",
                    "State of the canary: 1 = current.",
                    ((f"sum by (state) ({of('canary_hearing')})", "{{state}}"),),
                    rule="deaf_node",
                ),
                Panel(
                    "经 Redis 一圈",
                    "Last canary through Redis.",
                    ((of("canary_round_trip_seconds"), _PROCESS),),
                    unit="s",
                ),
                Panel(
                    "钟差",
                    "Our clock ahead of Redis' and the database's.",
                    ((of("clock_skew_seconds"), _PROCESS),),
                    unit="s",
                    rule="clock_skew",
                ),
            ),
        ),
        Section(
            "Redis 与数据库",
            (
                Panel(
                    "Redis 往返",
                    "Write check through the data connection, once a second.",
                    quantiles("redis_round_trip_seconds", 0.5, 0.99),
                    unit="s",
                    rule="redis_slow",
                ),
                Panel(
                    "Redis 的内存",
                    "Used, and its limit (0 = none).",
                    (
                        (shared("redis_memory_used_bytes"), "用了"),
                        (shared("redis_memory_max_bytes"), "上限"),
                    ),
                    unit="bytes",
                ),
                Panel(
                    "Redis 每秒的命令",
                    "Commands it executes each second; ours on the data connections.",
                    (
                        (shared("redis_commands_per_second"), "它做的"),
                        (rate("redis_commands_total"), "我们发的"),
                    ),
                    unit="ops",
                ),
                Panel(
                    "断线重连",
                    "Connections to Redis made again.",
                    ((rate("redis_reconnects_total", "connection"), "{{connection}}"),),
                    unit="ops",
                    rule="redis_unavailable",
                ),
                Panel(
                    "数据库往返",
                    "Write check: a transaction, once a second.",
                    quantiles("database_round_trip_seconds", 0.5, 0.99),
                    unit="s",
                ),
                Panel(
                    "等数据库的",
                    "Waits for a connection, or for the turn to write.",
                    quantiles("database_wait_seconds", 0.5, 0.99),
                    unit="s",
                ),
                Panel(
                    "数据库不行的",
                    "Operations that failed for want of the database, by cause.",
                    ((rate("database_failures_total", "cause"), "{{cause}}"),),
                    unit="ops",
                    rule="database_unavailable",
                ),
            ),
        ),
        Section(
            "机器",
            (
                Panel(
                    "用掉的比例",
                    "CPU, memory, disk of the machine; open files of the process.",
                    (
                        (
                            f"max by (instance, resource) ({of('resource_usage_ratio')})",
                            "{{instance}} {{resource}}",
                        ),
                    ),
                    unit="percentunit",
                    width=12,
                    rule="resource_usage_high",
                ),
                Panel(
                    "数据盘剩下的",
                    "Free on the disk of the data folder.",
                    ((f"min by (instance) ({of('disk_free_bytes')})", "{{instance}}"),),
                    unit="bytes",
                    width=12,
                ),
            ),
        ),
    ),
)
