"""场景 fanout：一条广播给所有连接。先量最快每秒投递多少，再以一半的速率量延迟。"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from meeting_push.redis.keys import Keys

from ..failure import BenchError
from .arena import Arena
from .hold import late
from .orders import Join, Published, PublishSteady, Saturate, Steady
from .publisher import stamped_frame
from .result import latency

#: 每条连接在途几帧：服务器不必等，忙不过来时可以合并着写。
_DEPTH: Final = 4
_TRIAL: Final = 20
#: 每这么多条连接有一条记延迟：都记，先到顶的是负载。
_MEASURE_EVERY: Final = 16


async def fanout(arena: Arena) -> None:
    """:raises BenchError: 有帧没有到达"""
    before = await _connect(arena)
    plan, out, reach = arena.plan, arena.outcome, arena.watch.sockets
    with arena.steps.step(f"broadcast to {reach:,} sockets, as fast as they arrive"):
        trial = await _saturate(arena, reach, _TRIAL)
        broadcasts = max(_TRIAL, int(_TRIAL / trial.elapsed_s * plan.seconds / 2))
        await arena.watch.restart()
        async with arena.watch.running():
            most = await _saturate(arena, reach, broadcasts)
            rows = list(arena.watch.rows)
    rate = most.arrived / most.elapsed_s
    out.add("deliveries_per_s", "deliveries, full speed", rate, "/s", "higher")
    arena.cpu(rows, "delivery")
    lost, sent = await _steady(arena, rate * plan.load_share / reach, reach)
    arena.losses(lost, sent)
    await arena.memory(before, reach)
    await arena.team.leave()


async def _connect(arena: Arena) -> dict[str, int]:
    def order(users: list[int], first_index: int) -> Join:
        every = arena.join_order(users, first_index)
        return msgspec.structs.replace(every, measure_every=_MEASURE_EVERY)

    before = await arena.connect(order)
    await arena.watch.look()
    nodes = await arena.redis.listening_nodes()
    if nodes < arena.servers.gateways:
        raise BenchError(f"{nodes} of {arena.servers.gateways} gateways listen to broadcasts")
    return before


async def _saturate(arena: Arena, reach: int, broadcasts: int) -> Published:
    target = arena.servers.gateway
    order = Saturate(
        target=target,
        channels=[Keys(target.key_prefix).broadcast_channel],
        payloads=(stamped_frame(arena.plan.frame_bytes, time.monotonic_ns()),),
        reach=reach,
        publishes=broadcasts,
        window=reach * _DEPTH,
    )
    published = await arena.team.publisher.ask(order, Published)
    if published.arrived != broadcasts * reach:
        raise BenchError(f"{published.arrived} of {broadcasts * reach} deliveries arrived")
    return published


async def _steady(arena: Arena, broadcasts_per_s: float, reach: int) -> tuple[int, int]:
    """开环：延迟从预定的发布时刻算到每一条连接。"""
    plan, target = arena.plan, arena.servers.gateway
    order = PublishSteady(
        target=target,
        channels=[Keys(target.key_prefix).broadcast_channel],
        rate_per_s=broadcasts_per_s,
        duration_s=plan.seconds / 2,
        frame_bytes=plan.frame_bytes,
    )
    await arena.watch.restart()
    with arena.steps.step(f"{broadcasts_per_s:.1f} broadcasts/s") as on_progress:
        async with arena.watch.running():
            steady = await arena.team.publisher.ask(order, Steady)
            sent = steady.sent * reach
            lost = await arena.drain(sent, on_progress)
    delivery = latency("published to socket, each delivery", arena.watch.latency)
    arena.outcome.latencies.append(delivery)
    for percent in (50, 95, 99):
        name = f"delivery P{percent} at {plan.load_share:.0%} of that"
        arena.outcome.add(f"p{percent}_ms", name, delivery.at(percent), "ms", "lower")
    late(arena, steady)
    return lost, sent
