"""测到的数字：一个 edge 的一轮，以及各轮的中位数。"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec


class IdleFigures(msgspec.Struct, frozen=True, kw_only=True):
    """空闲连接；内存是服务器进程的增长除以连接数（不含内核的套接字缓冲）。"""

    sockets: int
    connects_per_s: float
    pss_bytes_per_socket: float | None
    rss_bytes_per_socket: float | None


class FanoutFigures(msgspec.Struct, frozen=True, kw_only=True):
    """``server_busy``、``load_busy``：各占一个核的几成；前者远低于 1 则到顶的不是服务器。"""

    sockets: int
    frames: int
    frames_per_s: float
    cpu_us_per_frame: float | None
    server_busy: float | None
    load_busy: float


class RestFigures(msgspec.Struct, frozen=True, kw_only=True):
    """键是并发数；延迟是 POST 到 202。"""

    sends_per_s: dict[str, float]
    p50_ms: dict[str, float]
    p99_ms: dict[str, float]


class DurableFigures(msgspec.Struct, frozen=True, kw_only=True):
    """从预定的发送时刻到帧到达收件人的套接字；每条都被确认。"""

    messages: int
    rate_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class EdgeFigures(msgspec.Struct, frozen=True, kw_only=True):
    edge: str
    idle: IdleFigures
    fanout: FanoutFigures  # 每条连接在途 ``plan.shallow_frames``
    backlog: FanoutFigures  # 在途 ``plan.deep_frames``
    rest: RestFigures
    durable: DurableFigures


def flat(figures: EdgeFigures) -> dict[str, float]:
    """``{"idle.pss_bytes_per_socket": …, "rest.sends_per_s.16": …}``；没有量到的不出现。"""
    found: dict[str, float] = {}
    _flatten("", msgspec.to_builtins(figures), found)
    return found


def medians(runs: Sequence[EdgeFigures], edge: str) -> dict[str, float]:
    """``edge`` 各轮的逐项中位数。"""
    rows = [flat(run) for run in runs if run.edge == edge]
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def _flatten(prefix: str, value: object, found: dict[str, float]) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _flatten(f"{prefix}.{name}" if prefix else str(name), inner, found)
    elif isinstance(value, int | float):
        found[prefix] = float(value)
