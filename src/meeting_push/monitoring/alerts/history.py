"""规则看的数在内存里的时间序列：各进程的计数器合成大家的累计，此刻的值各归各的。

计数器按增量合起来：一个进程从零重来，或走了，累计都不倒退。时刻是单调的秒：墙上的钟跳了不相干。
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from ..report import Figures
from .rule import Selector

#: 这么久之内每一次都留着，更老的一分钟留一次。
FINE_S: Final = 900.0
COARSE_STEP_S: Final = 60.0
#: 比最长的窗口再久一点。
KEPT_S: Final = 6 * 3_600 + 300.0
#: 走了的进程最后的数也记着（它也许只是暂时看不见），至多这么多个。
MAX_PROCESSES: Final = 1_000

#: (指标, 标签值)；没有标签则空串，几个标签的值以逗号相连。
Key = tuple[str, str]


class Reading(NamedTuple):
    """一个进程的数。"""

    gauges: Figures
    totals: Figures


class _Point(NamedTuple):
    at: float
    totals: dict[Key, float]


class History:
    """只留 ``watched`` 里的指标。``take`` 记一次，别的只读。"""

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
