"""profile ``edges``：用户连接的两种 edge 在同一次运行里逐项比较。

每一轮每个 edge 启动一个新服务器，先量空闲内存（堆还没有被别的事用过），再量其余。
各轮交替谁先谁后：机器上别的活动对两者一样。量五个数字的函数各自连、各自断；
施加负载的两个进程整次运行只启动一次。
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from meeting_push.redis.keys import Keys

from . import load_worker
from .accounts import Accounts, make_accounts
from .edges_report import (
    DurableFigures,
    EdgeFigures,
    EdgesPlan,
    FanoutFigures,
    IdleFigures,
    RestFigures,
)
from .failure import BenchError
from .load_process import LoadProcess, Wire, shared_count
from .open_files import allow_sockets
from .orders import (
    Connect,
    Connected,
    DeviceKind,
    Disconnect,
    Disconnected,
    Order,
    Paced,
    Published,
    Saturate,
    SendBurst,
    SendPaced,
    Sent,
)
from .progress import OnProgress, Steps, silent
from .publisher import stamped_frame
from .sampler import CpuMeter, memory_use
from .server_under_test import ServerUnderTest
from .target import Target

#: 一个命令最久这么长；正常结束远早于它。
ORDER_TIMEOUT_S = 600.0

A = TypeVar("A", bound=Wire)


@dataclass(frozen=True, slots=True)
class Crew:
    """``holder`` 持有连接，写共享的计数（到达的帧数）；``publisher`` 读它（还有多少在途）。"""

    holder: LoadProcess
    publisher: LoadProcess


@contextlib.contextmanager
def crew() -> Iterator[Crew]:
    received = shared_count()
    with (
        LoadProcess(load_worker.main, received) as holder,
        LoadProcess(load_worker.main, received) as publisher,
    ):
        yield Crew(holder, publisher)


@dataclass(frozen=True, slots=True)
class Stage:
    """测量的台子：一个服务器，与施加负载的进程。"""

    server: ServerUnderTest
    plan: EdgesPlan
    crew: Crew

    @property
    def target(self) -> Target:
        return self.server.target

    def ask(self, order: Order, answer: type[A], on_progress: OnProgress = silent) -> A:
        """请持有连接的进程做一件事。"""
        return self.crew.holder.ask(order, answer, ORDER_TIMEOUT_S, on_progress)

    @contextlib.contextmanager
    def connected(
        self,
        user_ids: Sequence[int],
        devices: int,
        kind: DeviceKind,
        on_progress: OnProgress = silent,
    ) -> Iterator[float]:
        """期间全部在线；产出连接用时（秒）。

        :raises BenchError: 有的没连上，或中途被服务器断开：那样的数字没有意义
        """
        order = Connect(
            target=self.target,
            user_ids=list(user_ids),
            devices=devices,
            kind=kind,
            frame_bytes=self.plan.frame_bytes,
            concurrency=self.plan.connect_concurrency,
            heartbeat_interval_s=self.plan.heartbeat_interval_s,
        )
        yield self.ask(order, Connected, on_progress).elapsed_s
        lost = self.ask(Disconnect(), Disconnected).lost
        if lost:
            raise BenchError(f"the server closed {lost} sockets during the measurement")


#: 连接用的用户 id：远离 SQL 里的账号（路径上的用户不必存在）。
_FIRST_USER_ID = 1_000_000
_WARM_UP_SHARE = 10


def measure_idle(stage: Stage, on_progress: OnProgress) -> IdleFigures:
    """空闲连接的内存：各是不同的用户，心跳照常。"""
    plan, pid = stage.plan, stage.server.pid
    with stage.connected(_users(plan.warm_sockets), 1, "count"):
        time.sleep(plan.heartbeat_interval_s / 2)
    _calm(plan)
    before = memory_use(pid) if pid is not None else None
    with stage.connected(_users(plan.idle_sockets), 1, "count", on_progress) as elapsed:
        time.sleep(plan.settle_s)
        after = memory_use(pid) if pid is not None else None
    _calm(plan)
    sockets = plan.idle_sockets
    return IdleFigures(
        sockets=sockets,
        connects_per_s=sockets / elapsed,
        pss_bytes_per_socket=(after.pss - before.pss) / sockets if before and after else None,
        rss_bytes_per_socket=(after.rss - before.rss) / sockets if before and after else None,
    )


def measure_fanout(stage: Stage, depth: int) -> FanoutFigures:
    """饱和的扇出：固定的帧数，每条连接在途至多 ``depth`` 帧，全部到达。"""
    plan = stage.plan
    users = _users(plan.fanout_users)
    with stage.connected(users, plan.devices_per_user, "count"):
        _saturate(stage, users, plan.fanout_frames // _WARM_UP_SHARE, depth)
        server, load = CpuMeter(stage.server.pid), CpuMeter(stage.crew.holder.pid)
        published = _saturate(stage, users, plan.fanout_frames, depth)
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


def measure_rest(stage: Stage, accounts: Accounts, on_progress: OnProgress) -> RestFigures:
    """每条一个收件人，收件人在线并确认：整条耐久路径都在跑。"""
    figures = RestFigures(sends_per_s={}, p50_ms={}, p99_ms={})
    levels = stage.plan.rest_concurrency
    with stage.connected(accounts.recipient_ids, 1, "ack"):
        for done, concurrency in enumerate(levels):
            sent = stage.ask(_burst(stage, accounts, concurrency), Sent)
            name = str(concurrency)
            figures.sends_per_s[name] = sent.accepted / sent.elapsed_s
            figures.p50_ms[name] = sent.latency.percentile(50) / 1000
            figures.p99_ms[name] = sent.latency.percentile(99) / 1000
            on_progress(done + 1, len(levels))
    return figures


def measure_durable(stage: Stage, accounts: Accounts) -> DurableFigures:
    plan = stage.plan
    order = SendPaced(
        target=stage.target,
        token=stage.target.token(accounts.sender_id),
        recipient_ids=accounts.recipient_ids,
        rate_per_s=plan.latency_rate_per_s,
        duration_s=plan.latency_duration_s,
    )
    with stage.connected(accounts.recipient_ids, 1, "ack"):
        latency = stage.ask(order, Paced).latency
    return DurableFigures(
        messages=latency.count,
        rate_per_s=plan.latency_rate_per_s,
        p50_ms=latency.percentile(50) / 1000,
        p95_ms=latency.percentile(95) / 1000,
        p99_ms=latency.percentile(99) / 1000,
        max_ms=latency.percentile(100) / 1000,
    )


def _burst(stage: Stage, accounts: Accounts, concurrency: int) -> SendBurst:
    return SendBurst(
        target=stage.target,
        token=stage.target.token(accounts.sender_id),
        recipient_ids=accounts.recipient_ids,
        concurrency=concurrency,
        duration_s=stage.plan.rest_duration_s,
    )


def _saturate(stage: Stage, users: list[int], frames: int, depth: int) -> Published:
    plan = stage.plan
    publishes = frames // plan.devices_per_user
    keys = Keys(stage.target.key_prefix)
    order = Saturate(
        target=stage.target,
        channels=[keys.user_channel(user) for user in users],
        payloads=(stamped_frame(plan.frame_bytes, time.monotonic_ns()),),
        reach=plan.devices_per_user,
        publishes=publishes,
        window=plan.fanout_sockets * depth,
    )
    published = stage.crew.publisher.ask(order, Published, ORDER_TIMEOUT_S, silent)
    expected = publishes * plan.devices_per_user
    if published.arrived != expected:
        raise BenchError(f"{published.arrived} of {expected} frames arrived")
    return published


def _calm(plan: EdgesPlan) -> None:
    """让服务器做完断开之后的事（成批的在线状态），不算进下一个数字。"""
    time.sleep(plan.settle_s / 5)


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
    with crew() as workers:
        return [
            _measure(f"{repeat + 1}/{plan.repeats} {edge}", edge, plan, source, workers, steps)
            for repeat in range(plan.repeats)
            for edge in (edges if repeat % 2 == 0 else reversed(edges))
        ]


def _measure(
    name: str, edge: str, plan: EdgesPlan, source: ServerSource, workers: Crew, steps: Steps
) -> EdgeFigures:
    with source(edge) as server:
        stage = Stage(server, plan, workers)
        with steps.step(f"{name}: idle sockets") as on_progress:
            idle = measure_idle(stage, on_progress)
        accounts = make_accounts(server.target, plan.recipients)
        with steps.step(f"{name}: fan-out"):
            fanout = measure_fanout(stage, plan.shallow_frames)
        with steps.step(f"{name}: fan-out, behind"):
            backlog = measure_fanout(stage, plan.deep_frames)
        with steps.step(f"{name}: REST sends") as on_progress:
            rest = measure_rest(stage, accounts, on_progress)
        with steps.step(f"{name}: POST to socket"):
            durable = measure_durable(stage, accounts)
    return EdgeFigures(
        edge=edge, idle=idle, fanout=fanout, backlog=backlog, rest=rest, durable=durable
    )
