"""``meeting-push bench shards``：同样的耐久消息，一台 Redis、一个主与几个主的 Cluster 轮流量。

一台机器只有几个核：满载说的是它们合起来能做多少；每个收件人各进程的 CPU 说的是谁先用完一个核，
由此算出各在自己的核上时的上限（算出来的，不是量出来的）。
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

import msgspec
from rich.table import Table

from ..progress import Steps
from ..report import Heading
from ..sampler import cpu_seconds
from .plan import LoadPlan
from .redis_nodes import RedisNodes, redis_nodes
from .result import Result
from .run import run_profile
from .servers import Options

#: 不是 Cluster 的一台。
ALONE: Final = 0
#: 一批发出、收件人散在各个槽：每条十人，同 ``bench 1k``。
_LOAD: Final = LoadPlan(
    scenario="send",
    about="Durable messages to 300 sockets.",
    sockets=300,
    accounts=300,
    seconds=8,
    calibrate_s=5,
    load_share=0.6,
    recipients_per_message=10,
)


class ShardsPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``masters`` 是最大的 Cluster 有几个主，也是它的队列分几份。"""

    rounds: int = 3
    masters: int = 3
    load: LoadPlan = _LOAD

    @property
    def arms(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((ALONE, 1, self.masters)))


QUICK_SHARDS: Final = ShardsPlan(
    rounds=1,
    load=msgspec.structs.replace(_LOAD, sockets=40, accounts=40, seconds=2, calibrate_s=1),
)


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """一次：收件人/s，各进程每个收件人的 CPU 微秒；``redis_us`` 每台一个。"""

    masters: int
    full_load_per_s: float
    recorded_per_s: float
    server_us: float
    redis_us: list[float]

    @property
    def own_cores_per_s(self) -> float:
        """每个进程都有自己的核：最忙的那个用满的时候。算出来的。"""
        return 1e6 / max(self.server_us, *self.redis_us)

    @property
    def redis_only_per_s(self) -> float:
        """服务器再多也一样：最忙的一台 Redis 用满的时候。算出来的。"""
        return 1e6 / max(self.redis_us)


class ShardsReport(Heading, frozen=True, kw_only=True):
    plan: ShardsPlan
    rounds: list[list[Arm]]


def run_shards(plan: ShardsPlan, heading: Heading, steps: Steps) -> ShardsReport:
    """:raises BenchError: 没有做成"""
    with contextlib.ExitStack() as stack:
        redises = {masters: stack.enter_context(redis_nodes(masters)) for masters in plan.arms}
        rounds = [
            [
                _measure(plan.load, masters, redis, heading, steps)
                for masters, redis in _turn(redises, n)
            ]
            for n in range(plan.rounds)
        ]
    return ShardsReport(**msgspec.structs.asdict(heading), plan=plan, rounds=rounds)


def _turn(redises: Mapping[int, RedisNodes], number: int) -> list[tuple[int, RedisNodes]]:
    """每一轮换一个开头。"""
    arms = list(redises.items())
    first = number % len(arms)
    return arms[first:] + arms[:first]


def _measure(
    load: LoadPlan, masters: int, redis: RedisNodes, heading: Heading, steps: Steps
) -> Arm:
    before = [cpu_seconds(pid) for pid in redis.pids]
    settings = {"queue_partitions": str(masters)} if masters > 1 else {}
    options = Options(redis_url=redis.url, settings=settings)
    result = run_profile(load, options, heading, steps)
    used = [cpu_seconds(pid) - start for pid, start in zip(redis.pids, before, strict=True)]
    return _arm(masters, result, used)


def _arm(masters: int, result: Result, used: Sequence[float]) -> Arm:
    """Redis 的总数照量的那一段，各台的份额照整个一次。"""
    values = {figure.name: figure.value for figure in result.figures}
    per_s = values["delivered_per_s"]
    redis_us = values["cpu.redis"] / per_s * 1e6
    return Arm(
        masters=masters,
        full_load_per_s=values["capacity_per_s"],
        recorded_per_s=values["recorded_per_s"],
        server_us=values["cpu.server"] / per_s * 1e6,
        redis_us=[redis_us * share for share in _shares(used)],
    )


def _shares(used: Sequence[float]) -> list[float]:
    """各占几成；一格时钟也没有用到的，就当是平分。"""
    total = sum(used)
    return [each / total if total else 1 / len(used) for each in used]


# ── 表 ──────────────────────────────────────────────────────────────────────


def shards_table(report: ShardsReport) -> Table:
    shown = Table("recipients", *(_name(masters) for masters in report.plan.arms))
    shown.title = f"meeting-push bench shards: medians of {len(report.rounds)} rounds"
    for column in shown.columns[1:]:
        column.justify = "right"
    by_arm = {
        masters: [arm for each in report.rounds for arm in each if arm.masters == masters]
        for masters in report.plan.arms
    }
    for label, value in _ROWS:
        shown.add_row(label, *(_cell(list(map(value, arms))) for arms in by_arm.values()))
    return shown


def slower(report: ShardsReport) -> dict[str, float]:
    """Cluster 的比一台多用几成 CPU（服务器的，每个收件人的）；各轮之比的中位数。"""
    found = {}
    for masters in report.plan.arms[1:]:
        ratios = []
        for each in report.rounds:
            arms = {arm.masters: arm for arm in each}
            ratios.append(arms[masters].server_us / arms[ALONE].server_us - 1)
        found[_name(masters)] = median(ratios)
    return found


_ROWS: Final = (
    ("full load, to the socket, /s", lambda arm: arm.full_load_per_s),
    ("full load, to recorded ack, /s", lambda arm: arm.recorded_per_s),
    ("CPU of the server, µs each", lambda arm: arm.server_us),
    ("CPU of all Redis, µs each", lambda arm: sum(arm.redis_us)),
    ("CPU of the busiest Redis, µs each", lambda arm: max(arm.redis_us)),
    ("own cores, one server: at most, /s (calculated)", lambda arm: arm.own_cores_per_s),
    ("own cores, many servers: at most, /s (calculated)", lambda arm: arm.redis_only_per_s),
)


def _name(masters: int) -> str:
    return "one Redis" if masters == ALONE else f"Cluster of {masters}"


def _cell(values: Sequence[float]) -> str:
    spread = f" ({min(values):,.0f}…{max(values):,.0f})" if len(values) > 1 else ""
    return f"{median(values):,.0f}{spread}"
