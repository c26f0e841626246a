"""台子：服务器、负载进程、观察者，以及几个场景共用的动作。"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ..failure import BenchError
from ..measured import Measurements
from ..progress import OnProgress, Steps
from .orders import Join, Posted
from .plan import LoadPlan
from .population import Population
from .redis_probe import RedisProbe
from .result import Curve, Latency, Row
from .servers import Servers
from .team import Hand, JoinOrder, Team, add_counts
from .watch import OTHERS, Watch

#: 全部发出之后，最后几条到达的期限：没有进展这么久就算丢了。
GRACE_S: Final = 10.0
_POLL_S: Final = 0.02
_SETTLE_S: Final = 1.0
LOAD: Final = "load"
_NOT_SERVED: Final = (LOAD, OTHERS)
#: 别的工作用了这么多核，结果就不能当作这台机器的了。
_BUSY_CORES: Final = 0.2


@dataclass(slots=True)
class Outcome(Measurements):
    latencies: list[Latency] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Arena:
    plan: LoadPlan
    servers: Servers
    team: Team
    redis: RedisProbe
    people: Population
    watch: Watch
    steps: Steps
    outcome: Outcome

    def join_order(self, users: list[int], first_index: int) -> Join:
        plan = self.plan
        return Join(
            target=self.servers.gateway,
            user_ids=users,
            first_index=first_index,
            concurrency=plan.connect_concurrency,
            heartbeat_interval_s=plan.heartbeat_interval_s,
            frame_bytes=plan.frame_bytes,
        )

    async def connect(
        self, order: JoinOrder | None = None, holders: Sequence[Hand] | None = None
    ) -> dict[str, int]:
        """连上全部；返回此前各角色的内存。

        :raises BenchError: 一条也没连上
        """
        before = await self.watch.memory()
        users, start = self.people.user_ids, time.monotonic()
        with self.steps.step(f"connect {len(users):,} sockets") as on_progress:
            joined = await self.team.join(users, order or self.join_order, on_progress, holders)
        elapsed = time.monotonic() - start
        if not joined.connected:
            raise BenchError(f"nobody could connect: {joined.failures}")
        out = self.outcome
        share = joined.connected / len(users) * 100
        out.add("connected", "connected", share, "%", "higher", goal=100)
        out.add("connects_per_s", "connects", joined.connected / elapsed, "/s", "higher")
        p95 = joined.latency.percentile(95) / 1000
        out.add("connect_p95_ms", "connect to welcome P95", p95, "ms", "lower")
        add_counts(out.errors, {f"connect: {k}": n for k, n in joined.failures.items()})
        return before

    async def memory(self, before: dict[str, int], sockets: int) -> None:
        """连接都还在时：每条连接摊到多少，连同解释器与 Redis；以及比连接之前多了多少。"""
        if not self.servers.census.known:
            self.outcome.notes.append("no --pid: neither CPU nor memory of the server is known")
            return
        await asyncio.sleep(_SETTLE_S)
        after = await self.watch.memory()
        whole, grown = sum(after.values()), sum(after.values()) - sum(before.values())
        self.outcome.add(
            "memory_per_socket", "memory per socket, everything", whole / sockets, "B", "lower"
        )
        self.outcome.add(
            "memory_growth_per_socket", "  of it growth", grown / sockets, "B", "lower"
        )
        for role, size in after.items():
            self.outcome.add(f"memory.{role}", f"memory of {role}", size, "B", "lower")

    async def drain(self, sent: int, on_progress: OnProgress) -> int:
        """等到 ``sent`` 条都到达，或 ``GRACE_S`` 没有进展；返回没到的条数（重复的抵不了缺的）。"""
        arrived, since = -1, time.monotonic()
        while True:
            await self.watch.look()
            now = time.monotonic()
            if self.watch.received > arrived:
                arrived, since = self.watch.received, now
            on_progress(min(arrived, sent), sent)
            if arrived >= sent or now - since > GRACE_S:
                return max(0, sent - arrived)
            await asyncio.sleep(_POLL_S)

    def cpu(self, rows: list[Row], per: str) -> None:
        """各角色平均占几个核，以及服务器（连同 Redis）每件事的 CPU。"""
        if not rows:
            return
        roles = list(dict.fromkeys(role for row in rows for role in row.cpu))
        for role in roles:
            cores = sum(row.cpu.get(role, 0.0) for row in rows) / len(rows)
            if role == OTHERS:
                self._strangers(cores)
            else:
                self.outcome.add(f"cpu.{role}", f"CPU of {role}", cores, "cores", "lower")
        received = sum(row.received_per_s for row in rows)
        if self.servers.census.known and received:
            each = served_cores(rows) * len(rows) / received * 1e6
            label = f"CPU per {per}, server and Redis"
            self.outcome.add("cpu_us_per_delivery", label, each, "µs", "lower")

    def _strangers(self, cores: float) -> None:
        self.outcome.add("cpu.others", "CPU of everything else here", cores, "cores", "lower")
        if cores > _BUSY_CORES:
            self.outcome.notes.append(
                f"other work on this machine used {cores:.1f} cores: latencies include it"
            )

    def errors(self, posted: Posted) -> None:
        """没有得到 202 的请求。"""
        refused = {k: n for k, n in posted.answers.items() if k != "202"}
        add_counts(self.outcome.errors, {f"POST: {k}": n for k, n in refused.items()})
        total = sum(posted.answers.values())
        rate = sum(refused.values()) / total * 100 if total else 0.0
        self.outcome.add("error_rate", "requests refused", rate, "%", "lower", goal=0)

    def losses(self, lost: int, of: int) -> None:
        """有没有丢，有没有被断开；错误率。"""
        out = self.outcome
        add_counts(out.errors, {f"closed: {k}": n for k, n in self.watch.closes.items()})
        out.add("sent", "messages to recipients, sent", of)
        out.add("lost", "lost", lost, "", "lower", goal=0)
        closed = sum(self.watch.closes.values())
        out.add("closed", "sockets closed by the server", closed, "", "lower", goal=0)


def served_cores(rows: Sequence[Row]) -> float:
    """服务器连同 Redis 平均占几个核。"""
    used = sum(s for row in rows for role, s in row.cpu.items() if role not in _NOT_SERVED)
    return used / len(rows)
