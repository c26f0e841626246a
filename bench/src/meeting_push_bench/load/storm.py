"""场景 storm：大家同时断开、同时回来；多久都在了，别人（一直连着的）感觉到多少。

回来的每一条都带着令牌，重新订阅、登记在线、读过信箱（welcome 之前服务器都做完）。没连上的退避
后再试，同真的客户端一样；每一次失败都计数。
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec

from meeting_push.redis.keys import Keys

from ..failure import BenchError
from ..progress import OnProgress, silent
from .arena import Arena
from .hold import late, transient
from .orders import Join, Joined, Published, Saturate, Steady
from .population import FIRST_VIRTUAL_ID
from .publisher import stamped_frame
from .result import Latency, latency
from .team import JoinOrder, add_counts

_RETRIES: Final = 10
#: 旁观者的 P95 至多是平时的几倍。
_MAX_RATIO: Final = 2.0
#: 风暴多久不知道：一小段一小段地发。
_SLICE_S: Final = 1.0
_PRESENCE_WAIT_S: Final = 30.0
_WINDOW: Final = 2_000


async def storm(arena: Arena) -> None:
    """:raises BenchError: 没有做成"""
    watchers = await _seat_bystanders(arena)
    await arena.connect(_retrying(arena), arena.team.holders[:-1])
    quiet = await _listen(arena, watchers, "quiet", arena.plan.seconds)
    joined, elapsed, noisy = await _storm(arena, watchers)
    _report(arena, joined, elapsed, quiet, noisy)
    await _presence(arena)
    await _subscriptions(arena)
    closed = sum(arena.watch.closes.values())
    arena.outcome.add("closed", "sockets closed by the server", closed, "", "lower", goal=0)
    await arena.team.leave()


async def _seat_bystanders(arena: Arena) -> list[int]:
    """在自己的进程里：别人重连时它不忙。"""
    first = FIRST_VIRTUAL_ID + 10 * len(arena.people.user_ids)
    users = list(range(first, first + arena.plan.bystanders))

    def order(part: list[int], start: int) -> Join:
        return arena.join_order(part, start + len(arena.people.user_ids))

    joined = await arena.team.join(users, order, holders=arena.team.holders[-1:])
    if joined.connected != len(users):
        raise BenchError(f"the bystanders could not connect: {joined.failures}")
    return users


def _retrying(arena: Arena) -> JoinOrder:
    def order(users: list[int], first_index: int) -> Join:
        return msgspec.structs.replace(arena.join_order(users, first_index), retries=_RETRIES)

    return order


async def _listen(arena: Arena, watchers: list[int], name: str, seconds: float) -> Latency:
    """旁观者此刻的延迟。"""
    await arena.watch.restart(arena.team.holders[-1:])
    with arena.steps.step(f"bystanders, {name}") as on_progress:
        async with arena.watch.running():
            steady = await _publish(arena, watchers, seconds)
            await arena.drain(steady.sent, on_progress)
    late(arena, steady)
    return latency(f"bystanders, {name}", arena.watch.latency)


async def _publish(arena: Arena, watchers: list[int], seconds: float) -> Steady:
    rate = arena.plan.rate_per_s
    assert rate is not None, "storm plans have a rate"
    return await arena.team.publisher.ask(transient(arena, watchers, rate, seconds), Steady)


async def _storm(arena: Arena, watchers: list[int]) -> tuple[Joined, float, Latency]:
    await arena.watch.restart(arena.team.holders[-1:])
    with arena.steps.step("cut off, and back") as on_progress:
        async with arena.watch.running(), asyncio.TaskGroup() as group:
            back = group.create_task(_cut_and_return(arena, on_progress))
            sent = 0
            while not back.done():
                sent += (await _publish(arena, watchers, _SLICE_S)).sent
            lost = await arena.drain(sent, silent)
    arena.outcome.add("lost", "lost by bystanders", lost, "", "lower", goal=0)
    return *back.result(), latency("bystanders, storm", arena.watch.latency)


async def _cut_and_return(arena: Arena, on_progress: OnProgress) -> tuple[Joined, float]:
    """用时从大家都断开算起。"""
    crowd, users = arena.team.holders[:-1], arena.people.user_ids
    await arena.team.cut(crowd)
    start = time.monotonic()
    joined = await arena.team.join(users, _retrying(arena), on_progress, crowd)
    return joined, time.monotonic() - start


def _report(arena: Arena, joined: Joined, elapsed: float, quiet: Latency, noisy: Latency) -> None:
    out, users = arena.outcome, len(arena.people.user_ids)
    out.latencies += [quiet, noisy, latency("reconnect to welcome", joined.latency)]
    share = joined.connected / users * 100
    out.add("reconnected", "reconnected", share, "%", "higher", goal=100)
    out.add("reconnects_per_s", "reconnects", joined.connected / elapsed, "/s", "higher")
    out.add("storm_s", "until everybody was back", elapsed, "s", "lower")
    failed = sum(joined.failures.values())
    out.add("refused", "attempts refused (and tried again)", failed, "", "lower")
    add_counts(out.errors, {f"reconnect: {k}": n for k, n in joined.failures.items()})
    out.add("quiet_p95_ms", "bystanders P95, quiet", quiet.at(95), "ms", "lower")
    out.add("storm_p95_ms", "bystanders P95, storm", noisy.at(95), "ms", "lower")
    ratio = noisy.at(95) / quiet.at(95) if quiet.at(95) else 0.0
    out.add("p95_ratio", "  storm ÷ quiet", ratio, "", "lower", goal=_MAX_RATIO)


async def _presence(arena: Arena) -> None:
    """都回来之后，在线的人数对不对。"""
    wanted = len(arena.people.user_ids) + arena.plan.bystanders
    start = time.monotonic()
    with arena.steps.step("presence") as on_progress:
        while (online := await arena.redis.online_users()) < wanted:
            on_progress(online, wanted)
            if time.monotonic() - start > _PRESENCE_WAIT_S:
                break
            await asyncio.sleep(0.1)
    share = min(1.0, online / wanted) * 100
    arena.outcome.add("present", "online in presence", share, "%", "higher", goal=100)


async def _subscriptions(arena: Arena) -> None:
    """每人一条瞬时消息：收到的就是真的订上了。"""
    target, users = arena.servers.gateway, arena.people.user_ids
    keys = Keys(target.key_prefix)
    order = Saturate(
        target=target,
        channels=[keys.user_channel(user) for user in users],
        payloads=(stamped_frame(arena.plan.frame_bytes, time.monotonic_ns()),),
        reach=1,
        publishes=len(users),
        window=_WINDOW,
    )
    with arena.steps.step("one message to everybody"):
        published = await arena.team.publisher.ask(order, Published)
    share = published.arrived / len(users) * 100
    arena.outcome.add("subscribed", "subscribed again", share, "%", "higher", goal=100)
