"""``meeting-push drill``：真的弄坏一套系统，看告警触发、通知到人、修好之后恢复。

演练的清单：每一个弄坏什么（``faults.py``），哪条规则该说出来。
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from . import faults
from .faults import Fault
from .system import System
from .throwaway import Plan, Throwaway

#: 自己起的一套上，坏了（好了）之后这么久之内要看到告警触发（恢复）。
FIRES_S: Final = 30.0
CLEARS_S: Final = 40.0


@dataclass(frozen=True, slots=True)
class Drill:
    """``outside``：从外面也造得出的，在别人的系统上用它；None 就只在自己起的上。

    ``clears_s``：自己起的一套上，好了之后这么久之内要看到告警恢复。
    """

    name: str
    rule: str
    does: str
    make: Callable[[Throwaway], Fault]
    plan: Plan
    outside: Callable[[System], Fault] | None
    labels: Mapping[str, str]
    clears_s: float
    #: 从外面造它，要知道那里的 Redis。
    by_redis: bool = False


def inside(make: Callable[[System], Fault]) -> Callable[[Throwaway], Fault]:
    return lambda site: make(site.system)


#: 这么短的窗口，规则照样：刚坏就触发，好了几秒就恢复。
_AT_ONCE: Final = {"for_s": 0}
_SOON: Final = {"for_s": 1}
_QUEUES: Final = ("api", "worker", "gateway")


def _drill(
    name: str,
    rule: str,
    does: str,
    make: Callable[[Throwaway], Fault] | None = None,
    change: Mapping[str, object] = _AT_ONCE,
    *,
    outside: Callable[[System], Fault] | None = None,
    labels: Mapping[str, str] | None = None,
    clears_s: float = CLEARS_S,
    by_redis: bool = False,
    **plan: Any,
) -> Drill:
    """``change``：这条规则改哪几项；没有 ``make`` 就用 ``outside``；``plan`` 见 ``Plan``。"""
    if make is None:
        assert outside is not None, "one of the two"
        make = inside(outside)
    rules = {rule: change, **plan.pop("rules", {})}
    made = Plan(change=rules, **plan)
    return Drill(name, rule, does, make, made, outside, labels or {}, clears_s, by_redis)


_ALL: Final = (
    _drill(
        *("redis-down", "redis_unavailable", "Redis is killed, later started again"),
        *(faults.redis_down, _SOON),
        outside=faults.redis_paused,
        by_redis=True,
    ),
    _drill(
        *("redis-slow", "redis_slow", "every answer of Redis comes 0.25 s late"),
        *(faults.redis_slow, _SOON),
        proxied=True,
    ),
    _drill(
        *("database-down", "database_unavailable", "the database file is moved away"),
        *(faults.database_down, _SOON),
    ),
    _drill(
        *("node-kill", "node_lost", "one of two nodes is killed"),
        *(faults.node_killed, {"window_s": 15}),  # 被杀的可能正是评估的：接手要 8.5 秒
        roles=("all", "all"),
    ),
    _drill(
        *("deaf-node", "deaf_node", "what Redis publishes is swallowed on the way"),
        *(faults.deaf, _SOON),
        proxied=True,
    ),
    _drill(
        *("subscriptions-cut", "part_failing", "whoever subscribes in Redis is cut off"),
        *(faults.subscriptions_cut, _SOON),
        labels={"part": "subscriber"},
        proxied=True,
    ),
    _drill(
        *("node-disagrees", "node_disagrees", "a node joins whose tokens the others refuse"),
        *(faults.stranger, _SOON),
    ),
    _drill(
        *("loop-restarting", "loop_restarting", "a key of ours in Redis is overwritten"),
        *(faults.key_spoiled, {"window_s": 10}),
    ),
    _drill(
        *("cpu", "resource_usage_high", "one spinning process for each CPU", faults.busy),
        labels={"resource": "cpu"},
        clears_s=120,
    ),
    _drill(
        *(
            "open-files",
            "resource_usage_high",
            "sockets use up the open files",
            faults.files_used_up,
        ),
        labels={"resource": "open_files"},
        settings={"max_devices_per_user": 1_000},
        max_open_files=600,
    ),
    _drill(
        *("queue-lag", "queue_lag_high", "no worker runs, a message waits"),
        *(faults.workers_gone(1), {"threshold": 2, "for_s": 0}),
        settings={"direct_recipients": 0},  # 都走队列
        roles=_QUEUES,
    ),
    _drill(
        *("queue-full", "queue_nearly_full", "no worker runs, the queue fills up"),
        faults.workers_gone(18),
        settings={"queue_max_length": 20, "direct_recipients": 0},
        roles=_QUEUES,
    ),
    _drill(
        *("dead-letter", "dead_letters", "a message is never acknowledged", faults.never_acked),
        settings={"retry_delays_s": "[0.5, 0.5]"},
    ),
    _drill(
        *("unacked", "unacked_old", "an online user does not acknowledge"),
        *(faults.unacked, {"threshold": 2, "for_s": 0}),
    ),
    _drill(
        *("mailboxes", "mailboxes_growing", "messages go to somebody who is away"),
        *(faults.nobody_home, {"threshold": 50, "window_s": 10, "for_s": 0}),
    ),
    _drill(
        *("push-failing", "push_success_low", "messages expire before their recipient comes"),
        change={"window_s": 8, "for_s": 0},
        outside=faults.expiring,
    ),
    _drill(
        *(
            "slow-push",
            "error_budget_burn",
            "messages are more than 1 s on their way",
            faults.slow_push,
        ),
        proxied=True,
        clears_s=60,
    ),
    _drill(
        *("slow-client", "delivery_rate_low", "a device is connected and reads nothing"),
        change={"window_s": 8, "for_s": 0},
        outside=faults.slow_client,
    ),
    _drill(
        *("disconnects", "abnormal_disconnects_high"),
        "30 connections break without a close frame",
        change={"window_s": 8, "for_s": 0},
        outside=faults.disconnects,
    ),
    _drill(
        *("auth-failures", "authentication_failures_high", "requests with bad tokens"),
        change={"threshold": 10, "window_s": 6},
        outside=faults.bad_tokens,
    ),
    _drill(
        *("notifier", "notifier_failing", "a channel answers 500, its fallback tells"),
        *(faults.channel_broken, {"window_s": 8}),
        rules={"authentication_failures_high": {"threshold": 5, "window_s": 4}},
        broken_channel=True,
    ),
    _drill(
        *("webhook-gone", "webhook_failing", "a receiver of events answers 410"),
        faults.receiver_gone,
        webhook=True,
    ),
)
DRILLS: Final = {one.name: one for one in _ALL}
#: 造不出来的规则，为什么。
WITHOUT: Final = {
    "consumer_stalled": "a consumer that makes no progress while Redis and SQL are well is a bug",
    "clock_skew": "needs another clock than the machine's",
    "watchdog": "it always fires: pull its plug and look at the other end",
}
