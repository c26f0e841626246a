"""规则的式子：小的结构，不是要解释的文字。

内置的评估（``evaluation.py``）与 PromQL（``promql.py``）都由它来。

式子的值是几个数，各有自己的标签；没有数据、分母里没有东西，就没有值，也就不触发。
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

#: ``by`` 的一种：一个进程一个值。内置的标签叫 ``node``，Prometheus 里是 ``instance``、``process``。
PROCESS: Final = "process"


class Selector(msgspec.Struct, frozen=True):
    """一个指标，可以只要 ``label`` 是 ``values`` 之一的；名字不带前缀，计数器不带 ``_total``。"""

    name: str
    kind: Literal["counter", "gauge"] = "gauge"
    label: str = ""
    values: tuple[str, ...] = ()


def counter(name: str, label: str = "", *values: str) -> Selector:
    return Selector(name, "counter", label, values)


def gauge(name: str, label: str = "", *values: str) -> Selector:
    return Selector(name, "gauge", label, values)


class Increase(msgspec.Struct, frozen=True):
    """几个计数器在窗口里一共增加多少；从零重来的，照新增的算。``by``：按哪个标签分开。"""

    of: tuple[Selector, ...]
    by: str = ""


class Latest(msgspec.Struct, frozen=True):
    """各进程此刻的值合成一个；``by`` 是一个标签，或 ``PROCESS``。"""

    of: Selector
    how: Literal["max", "min", "sum"]
    by: str = ""
    absolute: bool = False


class Excess(msgspec.Struct, frozen=True):
    """窗口里来的比走的多多少。"""

    came: Increase
    went: Increase


class Ratio(msgspec.Struct, frozen=True):
    """``whole`` 不到 ``at_least`` 就没有值。"""

    part: Increase
    whole: Increase
    at_least: float = 0


class Pair(msgspec.Struct, frozen=True):
    """一对窗口（秒）与它们允许的倍数：长的说明要紧，短的说明还在烧。"""

    long_s: int
    short_s: int
    times: float


class Burn(msgspec.Struct, frozen=True):
    """错误预算烧得多快：``good ÷ all`` 差目标多少倍，再除以 ``Pair.times``；大于 1 就是太快。"""

    good: Increase
    all: Increase
    objective: float
    pairs: tuple[Pair, ...]


class Always(msgspec.Struct, frozen=True):
    """总是 1。"""


Expression = Increase | Latest | Excess | Ratio | Burn | Always


def selectors(expression: Expression) -> tuple[Selector, ...]:
    """它用到的全部指标。"""
    match expression:
        case Increase(of=of):
            return of
        case Latest(of=one):
            return (one,)
        case Excess(came=came, went=went):
            return came.of + went.of
        case Ratio(part=part, whole=whole):
            return part.of + whole.of
        case Burn(good=good, all=every):
            return good.of + every.of
        case _:
            return ()


def is_windowed(expression: Expression) -> bool:
    """规则的 ``window_s`` 对它有没有意义。"""
    return isinstance(expression, Increase | Excess | Ratio)
