"""profile ``edges``：用户连接的两种 edge（或 native 上的 WebSocket 与 SSE）在同一次运行里逐项比较。

每一轮每个 edge 启动一个新服务器，先量空闲内存（堆还没有被别的事用过），再量其余。
各轮交替谁先谁后：机器上别的活动对两者一样。量五个数字的函数各自连、各自断；
施加负载的两个进程（持有连接的，发布的）整次运行只启动一次。
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import uvloop

from meeting_push.redis.keys import Keys

from ..accounts import Accounts, make_accounts
from ..failure import BenchError
from ..open_files import allow_sockets
from ..progress import OnProgress, Steps, silent
from ..sampler import CpuMeter, memory_use
from ..server_under_test import ServerUnderTest
from .edges_report import (
    DurableFigures,
    EdgeFigures,
    EdgesPlan,
    FanoutFigures,
    IdleFigures,
    RestFigures,
)
from .orders import Dialect, Published, Saturate
from .publisher import stamped_frame
from .residents import Residents
from .team import Hand, hands


@dataclass(frozen=True, slots=True)
class Stage:
    """测量的台子：一个服务器，与施加负载的进程。"""

    server: ServerUnderTest
    plan: EdgesPlan
    holder: Hand
    publisher: Hand
    dialect: Dialect = "meeting-push"

    @property
    def residents(self) -> Residents:
        return Residents(self.server.target, self.holder)

    @contextlib.asynccontextmanager
    async def connected(
        self,
        user_ids: Sequence[int],
        counted_bytes: int | None,
        on_progress: OnProgress = silent,
    ) -> AsyncIterator[float]:
        """期间全部在线；产出连接用时（秒）。

        :raises BenchError: 有的没连上，或中途被服务器断开
        """
        yield await self.residents.connect(
            user_ids,
            # 事件流的心跳是服务器的那一行注释
            heartbeat_interval_s=0 if self.dialect == "sse" else self.plan.heartbeat_interval_s,
            concurrency=self.plan.connect_concurrency,
            counted_bytes=counted_bytes,
            dialect=self.dialect,
            on_progress=on_progress,
        )
        await self.residents.leave()


#: 不是 edge：native 上走 SSE。
SSE: Final = "sse"
#: 连接用的用户 id：远离 SQL 里的账号（路径上的用户不必存在）。
_FIRST_USER_ID = 1_000_000
_WARM_UP_SHARE = 10


async def measure_idle(stage: Stage, on_progress: OnProgress) -> IdleFigures:
    """空闲连接的内存：各是不同的用户，心跳照常。"""
    plan, pid = stage.plan, stage.server.pid
    async with stage.connected(_users(plan.warm_sockets), plan.frame_bytes):
        await asyncio.sleep(plan.heartbeat_interval_s / 2)
    await _calm(plan)
    before = memory_use(pid) if pid is not None else None
    users = _users(plan.idle_sockets)
    async with stage.connected(users, plan.frame_bytes, on_progress) as elapsed:
        await asyncio.sleep(plan.settle_s)
        after = memory_use(pid) if pid is not None else None
    await _calm(plan)
    sockets = plan.idle_sockets
    return IdleFigures(
        sockets=sockets,
        connects_per_s=sockets / elapsed,
        pss_bytes_per_socket=(after.pss - before.pss) / sockets if before and after else None,
        rss_bytes_per_socket=(after.rss - before.rss) / sockets if before and after else None,
    )


async def measure_fanout(stage: Stage, depth: int) -> FanoutFigures:
    """饱和的扇出：固定的帧数，每条连接在途至多 ``depth`` 帧，全部到达。"""
    plan = stage.plan
    users = _users(plan.fanout_users)
    sockets = [user for user in users for _ in range(plan.devices_per_user)]
    async with stage.connected(sockets, plan.frame_bytes):
        await _saturate(stage, users, plan.fanout_frames // _WARM_UP_SHARE, depth)
        server, load = CpuMeter(stage.server.pid), CpuMeter(stage.holder.pid)
        published = await _saturate(stage, users, plan.fanout_frames, depth)
        server_s, load_s = server.used_s(), load.used_s()
    frames, elapsed = published.arrived, published.elapsed_s
    assert load_s is not None, "our own process can be measured"
    return FanoutFigures(
        sockets=plan.fanout_sockets,
        frames=frames,
        frames_per_s=frames / elapsed,
        cpu_us_per_frame=server_s * 1e6 / frames if server_s is not None else None,
        server_busy=server_s / elapsed if server_s is not None else None,
        load_busy=load_s / elapsed,
    )


async def measure_rest(stage: Stage, accounts: Accounts, on_progress: OnProgress) -> RestFigures:
    """每条一个收件人，收件人在线并确认：整条耐久路径都在跑。"""
    figures = RestFigures(sends_per_s={}, p50_ms={}, p99_ms={})
    levels = stage.plan.rest_concurrency
    async with stage.connected(accounts.recipient_ids, None):
        for done, concurrency in enumerate(levels):
            sent = await stage.residents.post(accounts, stage.plan.rest_duration_s, concurrency)
            name = str(concurrency)
            figures.sends_per_s[name] = sent.recipients / sent.elapsed_s
            figures.p50_ms[name] = sent.latency.percentile(50) / 1000
            figures.p99_ms[name] = sent.latency.percentile(99) / 1000
            on_progress(done + 1, len(levels))
    return figures


async def measure_durable(stage: Stage, accounts: Accounts) -> DurableFigures:
    plan = stage.plan
    async with stage.connected(accounts.recipient_ids, None):
        latency = await stage.residents.post_at_pace(
            accounts, plan.latency_duration_s, plan.latency_rate_per_s
        )
    return DurableFigures(
        messages=latency.count,
        rate_per_s=plan.latency_rate_per_s,
        p50_ms=latency.percentile(50) / 1000,
        p95_ms=latency.percentile(95) / 1000,
        p99_ms=latency.percentile(99) / 1000,
        max_ms=latency.percentile(100) / 1000,
    )


async def _saturate(stage: Stage, users: list[int], frames: int, depth: int) -> Published:
    plan = stage.plan
    publishes = frames // plan.devices_per_user
    keys = Keys(stage.server.target.key_prefix)
    order = Saturate(
        target=stage.server.target,
        channels=[keys.user_channel(user) for user in users],
        payloads=(stamped_frame(plan.frame_bytes, time.monotonic_ns()),),
        reach=plan.devices_per_user,
        publishes=publishes,
        window=plan.fanout_sockets * depth,
    )
    published = await stage.publisher.ask(order, Published)
    expected = publishes * plan.devices_per_user
    if published.arrived != expected:
        raise BenchError(f"{published.arrived} of {expected} frames arrived")
    return published


async def _calm(plan: EdgesPlan) -> None:
    """让服务器做完断开之后的事（成批的在线状态），不算进下一个数字。"""
    await asyncio.sleep(plan.settle_s / 5)


def _users(count: int) -> list[int]:
    return list(range(_FIRST_USER_ID, _FIRST_USER_ID + count))


#: 给出一个 edge 的被测服务器，离开时收回。
ServerSource = Callable[[str], AbstractContextManager[ServerUnderTest]]


def run_edges(
    edges: Sequence[str], plan: EdgesPlan, source: ServerSource, steps: Steps
) -> list[EdgeFigures]:
    """依次测完全部；数字见 ``figures``。

    :raises BenchError: 哪一步没有做成；此前的数字也不要了
    """
    allow_sockets(max(plan.idle_sockets, plan.fanout_sockets))  # 服务器进程继承它
    with hands(2) as workers:
        return uvloop.run(_measure_all(edges, plan, source, workers, steps))


async def _measure_all(
    edges: Sequence[str],
    plan: EdgesPlan,
    source: ServerSource,
    workers: Sequence[Hand],
    steps: Steps,
) -> list[EdgeFigures]:
    figures = []
    for repeat in range(plan.repeats):
        for edge in edges if repeat % 2 == 0 else reversed(edges):
            way: Dialect = "sse" if edge == SSE else "meeting-push"
            with source("native" if edge == SSE else edge) as server:
                holder, publisher = workers
                stage = Stage(server, plan, holder, publisher, way)
                name = f"{repeat + 1}/{plan.repeats} {edge}"
                figures.append(await _measure(name, edge, stage, steps))
    return figures


async def _measure(name: str, edge: str, stage: Stage, steps: Steps) -> EdgeFigures:
    plan = stage.plan
    with steps.step(f"{name}: idle sockets") as on_progress:
        idle = await measure_idle(stage, on_progress)
    with steps.step(f"{name}: fan-out"):
        fanout = await measure_fanout(stage, plan.shallow_frames)
    with steps.step(f"{name}: fan-out, behind"):
        backlog = await measure_fanout(stage, plan.deep_frames)
    sent = await _measure_sending(name, stage, steps) if plan.sending else (None, None)
    return EdgeFigures(
        edge=edge, idle=idle, fanout=fanout, backlog=backlog, rest=sent[0], durable=sent[1]
    )


async def _measure_sending(
    name: str, stage: Stage, steps: Steps
) -> tuple[RestFigures, DurableFigures]:
    accounts = await asyncio.to_thread(make_accounts, stage.server.target, stage.plan.recipients)
    with steps.step(f"{name}: REST sends") as on_progress:
        rest = await measure_rest(stage, accounts, on_progress)
    with steps.step(f"{name}: POST to socket"):
        return rest, await measure_durable(stage, accounts)
