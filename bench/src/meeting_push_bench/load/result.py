"""一次运行的结果：机器可读，能与别次相比。"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, Self

import msgspec

from meeting_push.monitoring.latency import LatencyHistogram

from ..failure import BenchError
from ..report import Heading
from .plan import LoadPlan

Better = Literal["lower", "higher", "neither"]
PERCENTS: Final = (1, 10, 25, 50, 75, 90, 95, 99, 99.9, 99.99, 100)
FORMAT: Final = "meeting-push-bench-1"


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """一个数字；``goal`` 是 ``better`` 那一侧的界限（含）。"""

    name: str
    label: str
    value: float
    unit: str = ""
    better: Better = "neither"
    goal: float | None = None

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """毫秒；``points`` 是（百分位，毫秒）。"""

    label: str
    count: int
    points: list[tuple[float, float]]

    def at(self, percent: float) -> float:
        return next((ms for p, ms in self.points if p == percent), 0.0)


class LatencyFigures(msgspec.Struct, frozen=True, kw_only=True):
    """毫秒；``count`` 为 0 时都是 0。"""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, latency: LatencyHistogram) -> Self:
        count = latency.count
        p50, p95, p99, worst = (
            latency.percentile(percent) / 1000 if count else 0.0 for percent in (50, 95, 99, 100)
        )
        return cls(count=count, p50_ms=p50, p95_ms=p95, p99_ms=p99, max_ms=worst)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """一秒；``cpu``：角色 → 核；``memory``：角色 → 字节；没有量到的不出现。"""

    at_s: float
    sockets: int
    sent: int
    received: int
    received_per_s: float
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    queued: int = 0
    cpu: dict[str, float] = {}
    memory: dict[str, int] = {}


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """不随时间的一张图：例如速率 → 各百分位；``lines``：名字 → 点。"""

    title: str
    x_label: str
    y_label: str
    lines: dict[str, list[tuple[float, float]]]


class Result(Heading, frozen=True, kw_only=True):
    format: str = FORMAT
    bench: str = msgspec.field(name="profile")
    plan: LoadPlan
    servers: dict[str, int]  # 角色 → 进程数；别人的服务器为空
    figures: list[Figure]
    latencies: list[Latency]
    errors: dict[str, int]
    notes: list[str]
    rows: list[Row]
    curves: list[Curve] = msgspec.field(default_factory=list)

    @property
    def missed(self) -> list[Figure]:
        return [figure for figure in self.figures if figure.met is False]


def latency(label: str, histogram: LatencyHistogram) -> Latency:
    """:param histogram: 微秒"""
    points = (
        [(percent, histogram.percentile(percent) / 1000) for percent in PERCENTS]
        if histogram.count
        else []
    )
    return Latency(label=label, count=histogram.count, points=points)


def read_result(path: Path) -> Result:
    """报告的文件夹，或其中的 ``result.json``。

    :raises BenchError: 不是一份结果
    """
    file = path / "result.json" if path.is_dir() else path
    try:
        result = msgspec.json.decode(file.read_bytes(), type=Result)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BenchError(f"{path} is not a result of this tool: {error}") from None
    if result.format != FORMAT:
        raise BenchError(f"{path} is {result.format}, not {FORMAT}")
    return result
