"""一次评估之后，谁在等、谁触发、谁恢复；纯的，时刻由调用者给。"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .evaluation import Labels, evaluate
from .history import History
from .rule import Rule


class Spot(NamedTuple):
    """一条规则的一组标签。"""

    rule_id: str
    labels: Labels


class Outcome(NamedTuple):
    """``pending``：越了线、还不到 ``for_s`` 的，从什么时刻起；``fired`` 的值。"""

    pending: dict[Spot, int]
    fired: dict[Spot, float]
    resolved: list[Spot]


def crossings(rules: Iterable[Rule], history: History) -> tuple[dict[Spot, float], set[Spot]]:
    """越线的与它的值；以及有值而没有越线的。"""
    crossed: dict[Spot, float] = {}
    calm: set[Spot] = set()
    for rule in rules:
        for labels, value in evaluate(rule.expression, history, rule.window_s).items():
            spot = Spot(rule.rule_id, labels)
            if rule.crosses(value):
                crossed[spot] = value
            else:
                calm.add(spot)
    return crossed, calm


class Before(NamedTuple):
    """上一次之后的样子。"""

    pending: Mapping[Spot, int]
    firing: Iterable[Spot]


def step(
    rules: Mapping[str, Rule],
    history: History,
    before: Before,
    now_ms: int,
    *,
    partial: bool = False,
) -> Outcome:
    """``partial``：只看得见一部分进程，没有值的不算恢复，也不算重新等起。"""
    enabled = [rule for rule in rules.values() if rule.enabled]
    crossed, calm = crossings(enabled, history)
    firing = set(before.firing)
    pending: dict[Spot, int] = {}
    fired: dict[Spot, float] = {}
    for spot, value in crossed.items():
        if spot in firing:
            continue
        since = min(before.pending.get(spot, now_ms), now_ms)  # 钟往回跳了：从此刻算起
        if now_ms - since >= rules[spot.rule_id].for_s * 1_000:
            fired[spot] = value
        else:
            pending[spot] = since
    if partial:
        unseen = {s: at for s, at in before.pending.items() if s not in crossed and s not in calm}
        pending.update(unseen)
    names = {rule.rule_id for rule in enabled}
    resolved = [
        spot
        for spot in firing - crossed.keys()
        if spot in calm or not partial or spot.rule_id not in names
    ]
    return Outcome(pending, fired, resolved)
