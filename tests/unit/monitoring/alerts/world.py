"""一个或几个评估者，接在真的 Redis 与 SQL 上；看的数与钟由测试给。"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from meeting_push.errors import NotFoundError, UnavailableError
from meeting_push.monitoring.alerts.book import AlertBook
from meeting_push.monitoring.alerts.evaluator import AlertEvaluator, Election, Sight, lease_s
from meeting_push.monitoring.alerts.model import Alert, Severity, Text
from meeting_push.monitoring.alerts.rule import Comparison, Latest, Rule, gauge
from meeting_push.monitoring.metrics import Metrics, Sample
from meeting_push.monitoring.report import NodeReports, Reporter
from meeting_push.node_identity import NodeIdentity
from meeting_push.redis.claims import Turn
from meeting_push.redis.presence import ReportBoard
from meeting_push.redis.redis_service import RedisService
from meeting_push.storage.alerts import AlertRepository, AlertStateRepository
from meeting_push.storage.database import Database
from tests.support.proxy_thread import ProxyThread

NOW: Final = 1_800_000_000_000
LEASE_S: Final = lease_s(5)
HOT: Final = Rule(
    rule_id="hot",
    expression=Latest(gauge("heat"), "max"),
    comparison=Comparison.ABOVE,
    threshold=10,
    unit="count",
    for_s=10,
    severity=Severity.WARNING,
    summary=Text("热到 {value}", "as hot as {value}"),
)
AT_ONCE: Final = msgspec.structs.replace(HOT, for_s=0)


@dataclass
class Ear:
    """记下听到的；``is_deaf``：现在收不下。"""

    heard: list[Alert] = field(default_factory=list)
    is_deaf: bool = False

    async def told(self, alerts: Sequence[Alert]) -> None:
        if self.is_deaf:
            raise UnavailableError("not now")
        self.heard += alerts

    async def test(self, channel: str) -> None:
        raise NotFoundError(channel)

    @property
    def states(self) -> list[str]:
        return [f"{one.rule} {one.state.value}" for one in self.heard]


@dataclass(kw_only=True)
class Scene:
    """大家共有的：Redis、SQL、听的人，此刻多热，几点了。"""

    redis: RedisService
    database: Database
    ear: Ear = field(default_factory=Ear)
    heat: float = 0
    now: int = NOW
    rooms: int = 1

    def later(self, seconds: float) -> None:
        self.now += int(seconds * 1_000)

    def samples(self) -> Iterator[Sample]:
        for number in range(self.rooms):
            yield Sample("heat", "gauge", "how hot", self.heat, {"room": str(number)})

    def watcher(self, rule: Rule = AT_ONCE) -> Watcher:
        """一个进程里的评估。"""
        return Watcher(self, rule)

    def watchers(self, rule: Rule = AT_ONCE) -> tuple[Watcher, Watcher]:
        return Watcher(self, rule), Watcher(self, rule)


@dataclass(kw_only=True)
class FarScene(Scene):
    """到 Redis、到 SQL 各有一条可以断、可以挂住的线。"""

    redis_line: ProxyThread
    sql_line: ProxyThread


class Watcher:
    """一个进程里的评估。"""

    def __init__(self, scene: Scene, rule: Rule) -> None:
        redis, database = scene.redis, scene.database
        node = NodeIdentity()
        metrics = Metrics()
        metrics.add(scene.samples)
        reporter = Reporter(metrics, node, "all", "0", clock=lambda: scene.now)
        reports = self.reports = NodeReports(reporter, ReportBoard(redis.client, redis.keys), 5)
        turn = Turn(redis.lean, redis.keys.alert_turn, int(LEASE_S * 1_000))
        state = AlertStateRepository(database)
        self.records = AlertRepository(database)
        self.election = Election(turn, state, node, LEASE_S, lambda: scene.now)
        self.evaluator = AlertEvaluator(
            {rule.rule_id: rule},
            Sight(reports.read, reports.own),
            election=self.election,
            book=AlertBook(self.records, state),
            sink=scene.ear,
            interval_s=5,
            clock=lambda: scene.now,
            monotonic=lambda: scene.now / 1_000,
        )

    async def round(self) -> None:
        await self.evaluator.round()
