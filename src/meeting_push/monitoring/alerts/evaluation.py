"""式子在 ``History`` 上的值：标签 → 数；没有数据、分母里没有东西，就没有这一项。"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final

from .expressions import (
    PROCESS,
    Always,
    Burn,
    Excess,
    Expression,
    Increase,
    Latest,
    Pair,
    Ratio,
)
from .history import History

#: 内置的评估里 ``PROCESS`` 的标签。
NODE: Final = "node"

#: 一个值的标签；没有则空。
Labels = tuple[tuple[str, str], ...]
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
