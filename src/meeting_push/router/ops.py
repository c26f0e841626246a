"""运维的端点：活着、就绪、指标（不要令牌，也不透露任何用户的事）；给管理员与操作页的统计。

不用 ``from __future__ import annotations``：见 ``message_manage``。
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, Self

import msgspec
from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import Field

from ..clock import now_ms
from ..http.ops_http import OpsAnswer, OpsEndpoint, refused
from ..http.refusals import Refusal
from ..limits.rate import TokenBucket
from ..monitoring.health import Health
from ..monitoring.latency import LatencyHistogram
from ..monitoring.metrics import Metrics
from ..monitoring.report import Figures, NodeReport, NodeReports, add_up
from ..monitoring.rollup import HistoryReader
from ..monitoring.slot_counts import Activity, LogCounts
from ..queue.message_queue import MessageQueue, QueueLength
from ..redis.time_slots import HourTraffic
from .contract_route import ContractRoute, Out, contract_router
from .security import Security

#: 时刻至多这么大（毫秒）：JavaScript 也写得准的整数。
MAX_MS: Final = 2**53 - 1
#: 日志的计数看得到多远。
MOST_WINDOW_S: Final = 7 * 86_400

_NOT_FOUND: Final = Refusal(404, "not_found", "there is no such path here")


class ReadyOut(Out):
    """两处都是部件 → 原因：``failing`` 使本角色做不成事，``degraded`` 是别的。"""

    ready: bool
    failing: dict[str, str]
    degraded: dict[str, str]


def ops_router(health: Health, metrics: Metrics) -> APIRouter:
    """``/healthz``、``/readyz``、``/metrics``，挂在根下。"""
    router = APIRouter(tags=["ops"], route_class=ContractRoute)

    @router.get("/healthz", summary="进程活着", response_class=PlainTextResponse)
    async def healthz() -> str:
        return "ok"

    @router.get(
        "/readyz",
        summary="可以接活；否则 503 与不行的部分",
        response_model=ReadyOut,
        responses={503: {"model": ReadyOut, "description": "不就绪"}},
    )
    async def readyz() -> JSONResponse:
        report = await health.report()
        return JSONResponse(report.as_dict(), status_code=200 if report.ready else 503)

    @router.get("/metrics", summary="Prometheus 文本", response_class=PlainTextResponse)
    async def metrics_text() -> Response:
        return Response(metrics.page(), media_type=metrics.content_type)

    return router


def ops_endpoint(health: Health, metrics: Metrics) -> OpsEndpoint:
    """同样的三个端点，给没有 FastAPI 的裸网关端口。"""

    async def answer(path: str) -> OpsAnswer:
        if path == "/healthz":
            return OpsAnswer(200, "text/plain", b"ok")
        if path == "/readyz":
            report = await health.report()
            body = msgspec.json.encode(report.as_dict())
            return OpsAnswer(200 if report.ready else 503, "application/json", body)
        if path == "/metrics":
            return OpsAnswer(200, metrics.content_type, metrics.page())
        return refused(_NOT_FOUND)

    return answer


#: 一个数；有标签（按原因、按关闭码…）的是标签值 → 数。
FigureOut = float | dict[str, float]
FiguresOut = dict[str, FigureOut]

_FRAMES = ("frames_pushed", "acks", "heartbeats", "connections_opened", "delivered")


class LatencyOut(Out):
    """最近一分钟，抽样；没有样本时都是 null。"""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, histogram: LatencyHistogram) -> Self:
        if not histogram.count:
            return cls(count=0, p50=None, p95=None, p99=None)
        p50, p95, p99 = map(histogram.percentile, (50, 95, 99))
        return cls(count=histogram.count, p50=p50, p95=p95, p99=p99)


class HeartbeatOut(Out):
    received: float
    per_s: float
    written: float = Field(description="其中写进 Redis 的")
    timeouts: float = Field(description="因没有心跳而关闭的（4003）")


class CleanupOut(Out):
    nodes_reaped: float = Field(description="收拾掉的死节点")
    connections_reaped: float = Field(description="它们留下的连接")
    swept: float = Field(description="对账时核对过的连接")
    reconciled: dict[str, float] = Field(description="对账补上（written）与移走（removed）的")


class QueueOut(Out):
    name: str
    length: int
    pending: int
    oldest_age_ms: int


class NodeOut(Out):
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
    def of(cls, report: NodeReport) -> Self:
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


class HourOut(Out):
    hour: int = Field(description="这一小时开始的毫秒")
    sent: int = Field(description="收下的消息")
    received: int = Field(description="确认了的收件人")


class ActivityOut(Out):
    """用户活跃度；人数是估计，误差约 1 %。"""

    active_users: dict[str, int] = Field(description="窗口（5m 1h 1d 7d 30d）→ 来过的人")
    hours: list[HourOut] = Field(description="最近 24 小时，早的在前")


class StatsOut(Out):
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
    activity: ActivityOut
    nodes: list[NodeOut]

    @classmethod
    def of(
        cls,
        reports: Sequence[NodeReport],
        queues: Sequence[QueueLength],
        online_users: int,
        activity: tuple[dict[str, int], Sequence[HourTraffic]],
    ) -> Self:
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
            queues=[QueueOut.model_validate(one) for one in queues],
            activity=ActivityOut(
                active_users=activity[0],
                hours=[HourOut.model_validate(one) for one in activity[1]],
            ),
            nodes=[NodeOut.of(report) for report in reports],
        )


class FigureMeaningOut(Out):
    """一个数的意思；``unit``：count、per_s、ms、ratio。"""

    name: str
    unit: str
    zh: str
    en: str


class FigureMeaningsOut(Out):
    items: list[FigureMeaningOut]


class HistoryOut(Out):
    """各列一样长；null：那一段不知道，或还没有到头。"""

    step_s: int = Field(description="一格多长")
    at: list[int] = Field(description="各格开始的毫秒")
    figures: dict[str, list[float | None]]


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


#: 现做一份约 8 ms：每秒至多这么多份，攒下这么多；问得更勤的得到上一份（同 ``/metrics``）。
_STATS_PER_S: Final = 4
_STATS_BURST: Final = 20


@dataclass(slots=True)
class Statistics:
    """全体此刻的数；``GET /stats`` 与管理员的 ``ops`` 帧说的是同一份。"""

    reports: NodeReports
    queue: MessageQueue
    count_online: Callable[[], Awaitable[int]]
    activity: Activity
    _last: bytes = b""
    _turns: TokenBucket = field(
        default_factory=lambda: TokenBucket(_STATS_PER_S, now_ms(), _STATS_BURST)
    )

    async def read(self) -> StatsOut:
        """:raises RedisUnavailableError: 大家的报告在 Redis 里"""
        return StatsOut.of(
            await self.reports.read(),
            await self.queue.lengths(),
            await self.count_online(),
            await self.activity.read(),
        )

    async def text(self) -> bytes:
        """JSON；五十个标签页一起问的，至多四分之一秒以前的（OPS）。"""
        if self._turns.take(1, now_ms()) or not self._last:
            self._last = (await self.read()).model_dump_json().encode()
        return self._last


def stats_router(statistics: Statistics, history: HistoryReader, security: Security) -> APIRouter:
    """``/stats``；前缀由调用者加。"""
    router = contract_router(tags=["stats"])
    admin_only = [Depends(security.require_admin)]

    @router.get(
        "/stats",
        summary="连接、节点、速率、延迟、心跳与清理、队列（管理员）",
        dependencies=admin_only,
        response_model=StatsOut,
    )
    async def stats() -> Response:
        return Response(await statistics.text(), media_type="application/json")

    @router.get("/stats/history", summary="主要的数从前怎样（管理员）", dependencies=admin_only)
    async def stats_history(
        figures: Annotated[str, Query(max_length=2_000, description="逗号分开；空即全部")] = "",
        since: Annotated[int | None, Query(ge=0, le=MAX_MS, description="毫秒")] = None,
        until: Annotated[int | None, Query(ge=0, le=MAX_MS, description="毫秒")] = None,
    ) -> HistoryOut:
        """没有说从何时起，就是最近一小时。两天之内一格一分钟，更早的十分钟，至多 1,500 格。"""
        names = [name for name in figures.split(",") if name]
        return HistoryOut.model_validate(await history.read(names, since, until))

    @router.get("/stats/figures", summary="历史里有哪些数（管理员）", dependencies=admin_only)
    async def stats_figures() -> FigureMeaningsOut:
        known = history.figures.values()
        return FigureMeaningsOut(
            items=[
                FigureMeaningOut(name=one.name, unit=one.unit, zh=one.label.zh, en=one.label.en)
                for one in known
            ]
        )

    return router


class EventCountOut(Out):
    event: str = Field(description="见 docs/logs.md")
    level: str
    code: str | None = Field(description="我们的错误码；这种事件没有则 null")
    count: int
    by_time: list[int] = Field(description="一格一个，早的在前")


class LogEventsOut(Out):
    """各进程之和；没有一句日志的文字。"""

    items: list[EventCountOut] = Field(description="多的在前")
    step_s: int = Field(description="一格多长：两小时以内 60，一天以内 600，再远 3600")
    since: int = Field(description="第一格开始的毫秒")


LogLevel = Literal["INFO", "WARNING", "ERROR", "CRITICAL"]


def log_router(counts: LogCounts, security: Security) -> APIRouter:
    """``/logs/events``；前缀由调用者加。"""
    router = contract_router("/logs", tags=["logs"])

    @router.get(
        "/events",
        summary="各种日志事件说了几次，按时间（管理员）",
        dependencies=[Depends(security.require_admin)],
    )
    async def events(
        window_s: Annotated[int, Query(ge=60, le=MOST_WINDOW_S)] = 3_600,
        level: LogLevel | None = None,
    ) -> LogEventsOut:
        return LogEventsOut.model_validate(await counts.read(window_s, level))

    return router
