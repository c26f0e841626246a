"""比较的结果：别人在有与没有捣乱者时的延迟，以及捣乱者自己的下场。"""

from __future__ import annotations

import statistics
from typing import Literal

import msgspec

from ..load.result import LatencyFigures

Mode = Literal["without", "with"]


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """一段测量；键是路径：``durable``（POST → 套接字）、``transient``（PUBLISH → 套接字）。"""

    mode: Mode
    latencies: dict[str, LatencyFigures]


class SlowOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """不读的那一台：从停止读到服务器以 4001 关闭；期间服务器内存的增长；重连之后缺几条。"""

    closed_after_s: float
    growth_bytes: int
    sent: int
    missing: int


class FloodOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """灌满的会议：说话的一共发了多少段、听到多少帧、被拒绝多少段。"""

    seconds: float
    segments: int
    frames: int
    refused: int


class Disturbance(msgspec.Struct, frozen=True, kw_only=True):
    edge: str
    phases: list[Phase]
    slow: list[SlowOutcome] = []
    floods: list[FloodOutcome] = []


def median(phases: list[Phase], mode: Mode, path: str, figure: str) -> float:
    """各段的中位数。"""
    values = [getattr(p.latencies[path], figure) for p in phases if p.mode == mode]
    return float(statistics.median(values))
