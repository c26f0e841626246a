"""五个数字怎么量；每个函数自己连、自己断。空闲内存要在新的服务器上最先量。"""

from __future__ import annotations

import time

from meeting_push.redis.keys import Keys

from .accounts import Accounts
from .cpu_meter import CpuMeter
from .edges_report import DurableFigures, FanoutFigures, IdleFigures, RestFigures
from .failure import BenchError
from .orders import Paced, Published, Saturate, SendBurst, SendPaced, Sent
from .plan import EdgesPlan
from .progress import OnProgress, silent
from .publisher import stamped_frame
from .sampler import memory_use
from .stage import ORDER_TIMEOUT_S, Stage

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
        _publish(stage, users, plan.fanout_frames // _WARM_UP_SHARE, depth)
        server, load = CpuMeter(stage.server.pid), CpuMeter(stage.crew.holder.pid)
        published = _publish(stage, users, plan.fanout_frames, depth)
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


def _publish(stage: Stage, users: list[int], frames: int, depth: int) -> Published:
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
