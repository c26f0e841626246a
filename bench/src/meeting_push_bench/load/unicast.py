"""场景 unicast：瞬时消息给几千个不同的人，一级一级加快；P95 还在目标以内的最高速率。"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .arena import Arena
from .hold import late, transient
from .orders import Steady
from .result import Curve, Latency, Row, latency

#: 过了头之后，在好与坏之间再折半几次。
_BISECTIONS: Final = 3
_WARM_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Step:
    rate: float
    latency: Latency
    lost: int
    sent: int
    rows: list[Row]
    good: bool


async def unicast(arena: Arena) -> None:
    """:raises BenchError: 没有做成"""
    before = await arena.connect()
    start = arena.plan.rate_per_s
    assert start is not None, "unicast plans have a starting rate"
    await _run(arena, start, _WARM_S)  # 首次使用才做的事不算
    steps = await _climb(arena, start)
    _report(arena, steps)
    await arena.memory(before, arena.watch.sockets)
    await arena.team.leave()


async def _climb(arena: Arena, rate: float) -> list[_Step]:
    plan, steps = arena.plan, list[_Step]()
    good = bad = 0.0
    bisections = _BISECTIONS
    while len(steps) < plan.max_steps and bisections >= 0:
        step = await _run(arena, rate, plan.step_s)
        steps.append(step)
        good, bad = (rate, bad) if step.good else (good, rate)
        if bad:
            bisections -= 1
            rate = (good + bad) / 2
        else:
            rate *= plan.growth
    return steps


async def _run(arena: Arena, rate: float, seconds: float) -> _Step:
    await arena.watch.restart()
    order = transient(arena, arena.people.user_ids, rate, seconds)
    first = len(arena.watch.rows)
    with arena.steps.step(f"{rate:,.0f} messages/s for {seconds:g} s") as on_progress:
        async with arena.watch.running():
            steady = await arena.team.publisher.ask(order, Steady, arena.watch.sending("transient"))
            rows = arena.watch.rows[first:]
            lost = await arena.drain(steady.sent, on_progress)
    late(arena, steady)
    measured = latency(f"published to socket at {rate:,.0f}/s", arena.watch.latency)
    goal = arena.plan.p95_goal_ms
    good = not lost and (goal is None or measured.at(95) < goal)
    return _Step(rate, measured, lost, steady.sent, rows, good)


def _report(arena: Arena, steps: list[_Step]) -> None:
    out, plan = arena.outcome, arena.plan
    best = max((step for step in steps if step.good), key=lambda s: s.rate, default=None)
    label = f"messages with P95 < {plan.p95_goal_ms:g} ms" if plan.p95_goal_ms else "messages"
    out.add("best_per_s", label, best.rate if best else 0.0, "/s", "higher")
    out.add("users", "distinct users", len(arena.people.user_ids))
    if best is not None:
        out.latencies.append(best.latency)
        for percent in (50, 95, 99):
            ms = best.latency.at(percent)
            out.add(f"p{percent}_ms", f"P{percent} at that rate", ms, "ms", "lower")
        arena.cpu(best.rows, "message")
    ordered = sorted(steps, key=lambda step: step.rate)
    lines = {
        f"P{percent}": [(step.rate, step.latency.at(percent)) for step in ordered]
        for percent in (50, 95, 99)
    }
    out.curves.append(
        Curve(title="Latency by rate", x_label="messages/s", y_label="ms", lines=lines)
    )
    arena.losses(sum(s.lost for s in steps), sum(s.sent for s in steps))
