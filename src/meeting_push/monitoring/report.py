"""一个进程的统计报告：此刻的值、累计、每秒几次（两次快照之差）、最近一分钟的延迟。

取自与 ``/metrics`` 同一批样本，所以两处从不各说各话。

各进程的报告放在 Redis 的一个哈希里：问任何一个进程都看得见全体。
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, NamedTuple

import msgspec

from ..clock import Clock, now_ms
from ..errors import MeetingPushError
from ..logs import RepeatedWarning, logger
from ..node_identity import NodeIdentity
from ..redis.presence import ReportBoard
from ..supervision import periodically
from .latency import LatencyHistogram
from .metrics import Metrics, Sample

#: 延迟看最近多久的。
RECENT_MS: Final = 60_000
#: 两次快照至少隔这么久，算出的速率才不是噪声。
SHORTEST_MS: Final = 1_000

#: 指标名 → 标签值（没有标签则为空串）→ 值。
Figures = dict[str, dict[str, float]]


class Order(msgspec.Struct, frozen=True):
    """评估告警的进程请 ``node`` 做的一件事，写在它自己的报告里；``node`` 空即各进程。"""

    order_id: str
    action: str
    node: str


class Done(msgspec.Struct, frozen=True):
    """一件做过了，写在做的进程的报告里；``text`` 是怎样。"""

    order_id: str
    ok: bool
    text: str


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """``latency``：名字 → 最近一分钟的直方图（毫秒）；可以跨节点合并。"""

    node_id: str
    role: str
    version: str
    started_at: int
    reported_at: int
    gauges: Figures
    totals: Figures
    per_s: Figures
    latency: dict[str, LatencyHistogram]
    orders: tuple[Order, ...] = ()
    done: tuple[Done, ...] = ()


#: 请人做的、做过的，在报告里留这么久：够大家看到，又不会看到早已过去的。
ERRAND_S: Final = 60.0
_MAX_ERRANDS: Final = 100


class Errands:
    """随报告来去的差事。聋了的进程听不到控制频道，没有连接的进程不听；报告谁都交、谁都看。"""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._kept: dict[str, tuple[float, Order | Done]] = {}

    def keep(self, one: Order | Done, for_s: float = ERRAND_S) -> None:
        """写进报告 ``for_s``；同一件再来是续。"""
        self._kept[_key(one)] = (self._monotonic() + for_s, one)
        while len(self._kept) > _MAX_ERRANDS:
            del self._kept[next(iter(self._kept))]

    def withdraw(self, one: Order) -> None:
        """不再写进报告。"""
        self._kept.pop(_key(one), None)

    def orders(self) -> tuple[Order, ...]:
        return tuple(one for one in self._live() if isinstance(one, Order))

    def done(self) -> tuple[Done, ...]:
        return tuple(one for one in self._live() if isinstance(one, Done))

    def _live(self) -> list[Order | Done]:
        now = self._monotonic()
        self._kept = {key: kept for key, kept in self._kept.items() if kept[0] > now}
        return [one for _, one in self._kept.values()]


def _key(one: Order | Done) -> str:
    return f"{type(one).__name__} {one.order_id}"


class _Snapshot(NamedTuple):
    at: int
    totals: Figures
    latencies: dict[str, LatencyHistogram]


class Reporter:
    """``tick`` 每隔几秒记一次快照；``report`` 随时可叫，不改变什么。"""

    def __init__(
        self,
        metrics: Metrics,
        node: NodeIdentity,
        role: str,
        version: str,
        *,
        clock: Clock = now_ms,
    ) -> None:
        self._metrics = metrics
        self._node = node
        self._role = role
        self._version = version
        self._clock = clock
        #: 随这个进程的报告交出去的。
        self.errands = Errands()
        self._started_at = clock()
        self._past = deque([_Snapshot(self._started_at, {}, {})])

    @property
    def node_id(self) -> str:
        return self._node.id

    def tick(self) -> NodeReport:
        """记一次快照，返回此刻的报告。"""
        report = self.report()
        self._past.append(self._snapshot(report.reported_at, report.totals))
        while len(self._past) > 1 and self._past[1].at <= report.reported_at - RECENT_MS:
            self._past.popleft()
        return report

    def report(self) -> NodeReport:
        now = self._clock()
        samples = list(self._metrics.samples())
        totals = _figures(samples, "counter")
        return NodeReport(
            node_id=self._node.id,
            role=self._role,
            version=self._version,
            started_at=self._started_at,
            reported_at=now,
            gauges=_figures(samples, "gauge"),
            totals=totals,
            per_s=_rates(self._recent(now - SHORTEST_MS), totals, now),
            latency=self._latencies(),
            orders=self.errands.orders(),
            done=self.errands.done(),
        )

    def _snapshot(self, now: int, totals: Figures) -> _Snapshot:
        histograms = {name: one.copy() for name, (_, one) in self._metrics.latencies.items()}
        return _Snapshot(now, totals, histograms)

    def _recent(self, before: int) -> _Snapshot:
        """``before`` 之前最近的一次；没有就是最早的。"""
        return next((past for past in reversed(self._past) if past.at <= before), self._past[0])

    def _latencies(self) -> dict[str, LatencyHistogram]:
        oldest, empty = self._past[0].latencies, LatencyHistogram()
        return {
            name: one.since(oldest.get(name, empty))
            for name, (_, one) in self._metrics.latencies.items()
        }


def _figures(samples: Iterable[Sample], kind: str) -> Figures:
    figures: Figures = {}
    for sample in samples:
        if sample.kind == kind:
            label = ",".join(sample.labels.values())
            figures.setdefault(sample.name, {})[label] = sample.value
    return figures


def _rates(past: _Snapshot, totals: Figures, now: int) -> Figures:
    seconds = max(1, now - past.at) / 1000
    return {
        name: {
            label: round((value - past.totals.get(name, {}).get(label, 0)) / seconds, 3)
            for label, value in values.items()
        }
        for name, values in totals.items()
    }


def add_up(reports: Iterable[Figures]) -> Figures:
    """各节点之和。"""
    total: Figures = {}
    for figures in reports:
        for name, values in figures.items():
            sums = total.setdefault(name, {})
            for label, value in values.items():
                sums[label] = round(sums.get(label, 0) + value, 3)
    return total


#: 这么多个周期没有新报告，就当那个进程不在了。
STALE_INTERVALS: Final = 3

_decoder: Final = msgspec.json.Decoder(NodeReport)


class NodeReports:
    """``run`` 须由监督者一直运行；错误是 ``RedisUnavailableError``。"""

    def __init__(self, reporter: Reporter, board: ReportBoard, interval_s: float) -> None:
        self._reporter = reporter
        self._board = board
        self._interval_s = interval_s
        self._stale_ms = int(interval_s * 1000) * STALE_INTERVALS
        self._deferred = RepeatedWarning("node_report_deferred")

    @property
    def errands(self) -> Errands:
        return self._reporter.errands

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.post, partial(asyncio.sleep, self._interval_s), self._deferred)

    async def post(self) -> None:
        """交出此刻的一份。"""
        report = self._reporter.tick()
        await self._board.post(report.node_id, msgspec.json.encode(report))

    def own(self) -> NodeReport:
        """只有这个进程的，现做的；Redis 不在也有。"""
        return self._reporter.report()

    async def read(self) -> list[NodeReport]:
        """此刻在的各进程的报告，按 id；自己的是现做的。死去的顺手清掉。"""
        own = self.own()
        reports = [own]
        stale: list[bytes] = []
        for node_id, raw in (await self._board.read()).items():
            report = _decode(raw)
            if report is None or report.reported_at < own.reported_at - self._stale_ms:
                stale.append(node_id)
            elif report.node_id != own.node_id:
                reports.append(report)
        if stale:
            await self._board.remove(*stale)
        return sorted(reports, key=lambda report: report.node_id)

    async def withdraw(self) -> None:
        """关机时：不再算在内。"""
        try:
            await self._board.remove(self._reporter.node_id)
        except MeetingPushError as error:
            logger.bind(code=error.code, cause=error.cause).debug("node_report_left")


def _decode(raw: bytes) -> NodeReport | None:
    try:
        return _decoder.decode(raw)
    except msgspec.DecodeError:  # 另一个版本写的
        return None
