"""``GET /stats`` 的 JSON：每个节点一份，加上全体的。"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from ..monitoring.histogram import LatencyHistogram
from ..monitoring.report import Figures, NodeReport, add_up
from ..queue.message_queue import QueueLength

#: 一个数；有标签（按原因、按关闭码…）的是标签值 → 数。
FigureOut = float | dict[str, float]
FiguresOut = dict[str, FigureOut]

_FRAMES = ("frames_pushed", "acks", "heartbeats", "connections_opened", "delivered")


class LatencyOut(BaseModel):
    """最近一分钟，抽样；没有样本时都是 null。"""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, histogram: LatencyHistogram) -> LatencyOut:
        if not histogram.count:
            return cls(count=0, p50=None, p95=None, p99=None)
        p50, p95, p99 = map(histogram.percentile, (50, 95, 99))
        return cls(count=histogram.count, p50=p50, p95=p95, p99=p99)


class HeartbeatOut(BaseModel):
    received: float
    per_s: float
    written: float = Field(description="其中写进 Redis 的")
    timeouts: float = Field(description="因没有心跳而关闭的（4003）")


class CleanupOut(BaseModel):
    nodes_reaped: float = Field(description="收拾掉的死节点")
    connections_reaped: float = Field(description="它们留下的连接")
    swept: float = Field(description="对账时核对过的连接")
    reconciled: dict[str, float] = Field(description="对账补上（written）与移走（removed）的")


class QueueOut(BaseModel):
    name: str
    length: int
    pending: int
    oldest_age_ms: int


class NodeOut(BaseModel):
    node_id: str
    role: str
    version: str
    started_at: int
    reported_at: int
    gauges: FiguresOut
    totals: FiguresOut = Field(description="从进程启动起只增")
    per_s: FiguresOut = Field(description="totals 每秒增加多少")
    latency_ms: dict[str, LatencyOut]

    @classmethod
    def of(cls, report: NodeReport) -> NodeOut:
        return cls(
            node_id=report.node_id,
            role=report.role,
            version=report.version,
            started_at=report.started_at,
            reported_at=report.reported_at,
            gauges=_plain(report.gauges),
            totals=_plain(report.totals),
            per_s=_plain(report.per_s),
            latency_ms={name: LatencyOut.of(one) for name, one in report.latency.items()},
        )


class StatsOut(BaseModel):
    """全体的数是各进程之和；``online_users`` 不重复计。"""

    generated_at: int
    node_count: int
    connections: int
    online_users: int
    sockets: int
    waiting: int = Field(description="排队等着放行的连接")
    per_s: dict[str, float]
    latency_ms: dict[str, LatencyOut] = Field(description="push：接受到推送；ack：推送到确认")
    heartbeat: HeartbeatOut
    cleanup: CleanupOut
    closes: dict[str, float] = Field(description="关闭码 → 我们关闭的连接")
    drops: dict[str, float] = Field(description="原因 → 没有推出去的帧")
    queues: list[QueueOut]
    nodes: list[NodeOut]

    @classmethod
    def of(
        cls, reports: Sequence[NodeReport], queues: Sequence[QueueLength], online_users: int
    ) -> StatsOut:
        gauges = add_up(report.gauges for report in reports)
        totals = add_up(report.totals for report in reports)
        per_s = add_up(report.per_s for report in reports)
        return cls(
            generated_at=max(report.reported_at for report in reports),
            node_count=len(reports),
            connections=int(_one(gauges, "connections")),
            online_users=online_users,
            sockets=int(_one(gauges, "sockets")),
            waiting=int(_one(gauges, "connections_waiting")),
            per_s={name: _one(per_s, name) for name in _FRAMES},
            latency_ms=_latencies(reports),
            heartbeat=_heartbeat(totals, per_s),
            cleanup=_cleanup(totals),
            closes=totals.get("closes", {}),
            drops=totals.get("drops", {}),
            queues=[QueueOut.model_validate(one, from_attributes=True) for one in queues],
            nodes=[NodeOut.of(report) for report in reports],
        )


def _heartbeat(totals: Figures, per_s: Figures) -> HeartbeatOut:
    return HeartbeatOut(
        received=_one(totals, "heartbeats"),
        per_s=_one(per_s, "heartbeats"),
        written=_one(totals, "presence_heartbeats_written"),
        timeouts=totals.get("closes", {}).get("4003", 0),
    )


def _cleanup(totals: Figures) -> CleanupOut:
    return CleanupOut(
        nodes_reaped=_one(totals, "nodes_reaped"),
        connections_reaped=_one(totals, "connections_reaped"),
        swept=_one(totals, "presence_swept"),
        reconciled=totals.get("presence_reconciled", {}),
    )


def _latencies(reports: Sequence[NodeReport]) -> dict[str, LatencyOut]:
    merged: dict[str, LatencyHistogram] = {}
    for report in reports:
        for name, histogram in report.latency.items():
            merged[name] = merged.get(name, LatencyHistogram()).merge(histogram)
    return {name: LatencyOut.of(histogram) for name, histogram in merged.items()}


def _one(figures: Figures, name: str) -> float:
    """没有标签的一个数；没有这一项则 0。"""
    return figures.get(name, {}).get("", 0)


def _plain(figures: Figures) -> FiguresOut:
    return {
        name: values[""] if values.keys() == {""} else values for name, values in figures.items()
    }
