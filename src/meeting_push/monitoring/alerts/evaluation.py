"""评估：式子在 ``History`` 上的值；一次之后，谁在等、谁触发、谁恢复。纯的，时刻由调用者给。"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from .history import History
from .model import Labels, Spot
from .rule import (
    PROCESS,
    Always,
    Burn,
    Excess,
    Expression,
    Increase,
    Latest,
    Pair,
    Ratio,
    Rule,
)

#: 内置的评估里 ``PROCESS`` 的标签。
NODE: Final = "node"

#: 各组标签的值；没有数据、分母里没有东西，就没有这一项。
Values = dict[Labels, float]

_COMBINE: Final[dict[str, Callable[[list[float]], float]]] = {"max": max, "min": min, "sum": sum}


def evaluate(expression: Expression, history: History, window_s: float) -> Values:
    """:return: 各组标签的值"""
    match expression:
        case Increase():
            return _increase(expression, history, window_s)
        case Latest():
            return _latest(expression, history)
        case Excess():
            came, went = (
                _total(one, history, window_s) for one in (expression.came, expression.went)
            )
            return {} if came is None or went is None else {(): came - went}
        case Ratio():
            part, whole = (
                _total(one, history, window_s) for one in (expression.part, expression.whole)
            )
            if not whole or whole < expression.at_least:
                return {}
            return {(): (part or 0.0) / whole}
        case Burn():
            burns = list(_burns(expression, history))
            return {(): max(burns)} if burns else {}
        case Always():
            return {(): 1.0}


def _increase(increase: Increase, history: History, window_s: float) -> Values:
    values: defaultdict[Labels, float] = defaultdict(float)
    for selector in increase.of:
        for label, added in history.increase(selector, window_s).items():
            values[_labels(increase.by, label, "")] += added
    return dict(values)


def _latest(latest: Latest, history: History) -> Values:
    groups: defaultdict[Labels, list[float]] = defaultdict(list)
    for (process, label), value in history.latest(latest.of).items():
        groups[_labels(latest.by, label, process)].append(abs(value) if latest.absolute else value)
    return {labels: float(_COMBINE[latest.how](values)) for labels, values in groups.items()}


def _labels(by: str, label: str, process: str) -> Labels:
    if not by:
        return ()
    return ((NODE, process),) if by == PROCESS else ((by, label),)


def _total(increase: Increase, history: History, window_s: float) -> float | None:
    return _increase(increase, history, window_s).get(())


def _burns(burn: Burn, history: History) -> Iterator[float]:
    """每一对窗口：长的与短的里小的那个，都太快才算太快。"""
    for pair in burn.pairs:
        rates = [_burning(burn, history, pair, window) for window in (pair.long_s, pair.short_s)]
        known = [rate for rate in rates if rate is not None]
        if len(known) == len(rates):
            yield min(known)


def _burning(burn: Burn, history: History, pair: Pair, window_s: float) -> float | None:
    every = _total(burn.all, history, window_s)
    if not every:
        return None
    bad = every - (_total(burn.good, history, window_s) or 0.0)
    return bad / every / ((1 - burn.objective) * pair.times)


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
