"""``bench edges`` 的计划与报告：一个 edge 一轮的数字，各轮的中位数，终端里的表。"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

import msgspec
from rich.table import Table

from ..report import Heading


class EdgesPlan(msgspec.Struct, frozen=True, kw_only=True):
    """默认值是完整的一次（两个 edge、三轮，约一刻钟）。"""

    repeats: int = 3

    # 空闲连接的内存
    idle_sockets: int = 10_000
    warm_sockets: int = 200  # 先连再断一次：首次使用才分配的东西不算在连接头上
    heartbeat_interval_s: float = 10
    settle_s: float = 15  # 长于心跳间隔：每条连接都至少心跳过一次

    # 扇出：瞬时帧，一次 PUBLISH → 一个用户的所有设备；浅、深各一次
    fanout_users: int = 10
    devices_per_user: int = 100
    fanout_frames: int = 500_000
    #: 每条连接在途几帧。浅：几乎没有积压，是实时推送的样子（在途 ÷ 速率 = 延迟，约 20 ms）；
    #: 深：消费落后约一秒，谁会把同一条连接的几帧合成一次写，在这里见分晓。
    shallow_frames: int = 2
    deep_frames: int = 100
    frame_bytes: int = 160

    # REST 发送与 POST → 套接字；与怎样推无关的比较不必量
    sending: bool = True
    recipients: int = 8
    rest_concurrency: tuple[int, ...] = (16, 1)
    rest_duration_s: float = 5

    # POST → 收件人的套接字
    latency_rate_per_s: float = 100
    latency_duration_s: float = 15

    connect_concurrency: int = 64

    @property
    def fanout_sockets(self) -> int:
        return self.fanout_users * self.devices_per_user


QUICK = EdgesPlan(
    repeats=1,
    idle_sockets=500,
    warm_sockets=50,
    heartbeat_interval_s=0.5,
    settle_s=0.6,
    fanout_users=5,
    fanout_frames=20_000,
    recipients=2,
    rest_duration_s=0.3,
    latency_rate_per_s=50,
    latency_duration_s=1,
)


#: 表里的行：项、说明、除数（换成说明里的单位）、小数位。
_ROWS: Final = (
    ("idle.pss_bytes_per_socket", "memory per idle socket, PSS (KB)", 1024, 1),
    ("idle.rss_bytes_per_socket", "memory per idle socket, RSS (KB)", 1024, 1),
    ("idle.connects_per_s", "connects/s", 1, 0),
    ("fanout.cpu_us_per_frame", "CPU per delivered frame (µs)", 1, 2),
    ("fanout.frames_per_s", "delivered frames/s", 1, 0),
    ("fanout.server_busy", "  server busy (cores)", 1, 2),
    ("fanout.load_busy", "  load client busy (cores)", 1, 2),
    ("backlog.cpu_us_per_frame", "behind: CPU per delivered frame (µs)", 1, 2),
    ("backlog.frames_per_s", "behind: delivered frames/s", 1, 0),
    ("backlog.server_busy", "  server busy (cores)", 1, 2),
    ("rest.sends_per_s.16", "REST sends/s, concurrency 16", 1, 0),
    ("rest.sends_per_s.1", "REST sends/s, concurrency 1", 1, 0),
    ("durable.p50_ms", "POST to socket P50 (ms)", 1, 1),
    ("durable.p95_ms", "POST to socket P95 (ms)", 1, 1),
    ("durable.p99_ms", "POST to socket P99 (ms)", 1, 1),
)


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
    rest: RestFigures | None
    durable: DurableFigures | None


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


class EdgesReport(Heading, frozen=True, kw_only=True):
    """``ratios``：第一个 edge 除以第二个（有两个时），逐项。"""

    plan: EdgesPlan
    medians: dict[str, dict[str, float]]
    ratios: dict[str, float]
    runs: list[EdgeFigures]

    @classmethod
    def of(cls, heading: Heading, plan: EdgesPlan, runs: list[EdgeFigures]) -> EdgesReport:
        edges = list(dict.fromkeys(run.edge for run in runs))
        middle = {edge: medians(runs, edge) for edge in edges}
        return cls(
            **msgspec.structs.asdict(heading),
            plan=plan,
            medians=middle,
            ratios=_ratios(*middle.values()) if len(middle) == 2 else {},
            runs=runs,
        )


def edges_table(report: EdgesReport) -> Table:
    edges = list(report.medians)
    title = f"meeting-push bench edges: median of {report.plan.repeats}"
    ratio = [" ÷ ".join(edges)] if report.ratios else []
    shown = Table("", *edges, *ratio, title=title)
    for column in shown.columns[1:]:
        column.justify = "right"
    for name, label, divisor, digits in _ROWS:
        values = [report.medians[edge].get(name) for edge in edges]
        cells = [f"{v / divisor:,.{digits}f}" if v is not None else "-" for v in values]
        if ratio:
            cells.append(f"{report.ratios[name]:.2f}" if name in report.ratios else "-")
        shown.add_row(label, *cells)
    return shown


def _ratios(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    return {name: first[name] / value for name, value in second.items() if value}
