"""评估：看到的数的历史；式子在它上面的值；一次之后，谁在等、谁触发、谁恢复。

纯的，时刻由调用者给：历史里的是单调的秒（墙上的钟跳了不相干），等了多久是墙上的毫秒。
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from ..report import Figures
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
    Selector,
)

#: 这么久之内每一次都留着，更老的一分钟留一次。
FINE_S: Final = 900.0
COARSE_STEP_S: Final = 60.0
#: 比最长的窗口再久一点。
KEPT_S: Final = 6 * 3_600 + 300.0
#: 走了的进程最后的数也记着（它也许只是暂时看不见），至多这么多个。
MAX_PROCESSES: Final = 1_000

#: (指标, 标签值)；没有标签则空串，几个标签的值以逗号相连。
Key = tuple[str, str]
#: 内置的评估里 ``PROCESS`` 的标签。
NODE: Final = "node"

#: 各组标签的值；没有数据、分母里没有东西，就没有这一项。
Values = dict[Labels, float]

_COMBINE: Final[dict[str, Callable[[list[float]], float]]] = {"max": max, "min": min, "sum": sum}


class Reading(NamedTuple):
    """一个进程的数。"""

    gauges: Figures
    totals: Figures


class _Point(NamedTuple):
    at: float
    totals: dict[Key, float]


class History:
    """规则看的数在内存里的时间序列：各进程的计数器合成大家的累计，此刻的值各归各的。

    计数器按增量合起来：一个进程从零重来，或走了，累计都不倒退。

    只留 ``watched`` 里的指标。``take`` 记一次，别的只读。
    """

    def __init__(self, watched: Iterable[Selector]) -> None:
        self._names = {one.name for one in watched}
        self._points: list[_Point] = []
        self._last: dict[str, dict[Key, float]] = {}
        self._totals: dict[Key, float] = {}
        self._now: dict[str, dict[Key, float]] = {}
        self._has_seen_all = False

    def watch(self, watched: Iterable[Selector]) -> None:
        """还要留这些；在第一次 ``take`` 之前。"""
        self._names |= {one.name for one in watched}

    def take(self, at: float, readings: Mapping[str, Reading], *, partial: bool = False) -> None:
        """``partial``：只看得见一部分进程（Redis 不在）。"""
        for process, reading in readings.items():
            self._count(process, self._watched(reading.totals))
        self._now = {name: self._watched(one.gauges) for name, one in readings.items()}
        self._has_seen_all |= not partial
        self._append(_Point(at, dict(self._totals)))

    def _watched(self, figures: Figures) -> dict[Key, float]:
        return {
            (name, label): value
            for name in self._names & figures.keys()
            for label, value in figures[name].items()
        }

    def _count(self, process: str, totals: dict[Key, float]) -> None:
        """第一次见到的进程：我们看着大家的时候来的，从零算起；本来就在的，从此刻算起。"""
        known = self._last.pop(process, None)
        fresh = totals if known is None and not self._has_seen_all else {}
        before = known if known is not None else fresh
        for key, value in totals.items():
            was = before.get(key, 0.0)
            added = value - was if value >= was else value  # 从零重来
            self._totals[key] = self._totals.get(key, 0.0) + added
        self._last[process] = totals  # 放到最后：最久没见的在最前
        while len(self._last) > MAX_PROCESSES:
            del self._last[next(iter(self._last))]

    def _append(self, point: _Point) -> None:
        points = self._points
        points.append(point)
        # 刚老过 FINE_S 的那几个：离前一个不到一分钟的去掉
        old = bisect_right(points, point.at - FINE_S, key=lambda one: one.at)
        if old >= 2 and points[old - 1].at - points[old - 2].at < COARSE_STEP_S:
            del points[old - 1]
        while len(points) > 1 and points[1].at <= point.at - KEPT_S:
            del points[0]

    # ── 读 ──────────────────────────────────────────────────────────────────

    def increase(self, selector: Selector, window_s: float) -> dict[str, float]:
        """标签值 → 窗口里增加了多少；没有这个指标则空。"""
        if not self._points:
            return {}
        then = self._at(self._points[-1].at - window_s).totals
        return {
            label: value - then.get((name, label), 0.0)
            for (name, label), value in self._totals.items()
            if name == selector.name and _wanted(selector, label)
        }

    def latest(self, selector: Selector) -> dict[tuple[str, str], float]:
        """(进程, 标签值) → 此刻的值。"""
        return {
            (process, label): value
            for process, gauges in self._now.items()
            for (name, label), value in gauges.items()
            if name == selector.name and _wanted(selector, label)
        }

    def _at(self, at: float) -> _Point:
        """``at`` 那时的；记得没有那么久，就是最早的。"""
        index = bisect_right(self._points, at, key=lambda one: one.at)
        return self._points[max(0, index - 1)]


def _wanted(selector: Selector, label: str) -> bool:
    return not selector.values or not set(selector.values).isdisjoint(label.split(","))


# ── 式子的值 ─────────────────────────────────────────────────────────────────


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
