"""场景 hold：许多连接挂着，心跳照常；一股瞬时消息发给随机的人，另有一点耐久的。"""

from __future__ import annotations

import asyncio
from typing import Final

from meeting_push.redis.keys import Keys

from .arena import Arena, served_cores
from .orders import Post, Posted, PublishSteady, Steady
from .result import Row, latency

_CONNECTIONS: Final = 16
#: 发布者晚过这么久才值得一提。
_LATE_MS: Final = 20.0
#: 连上之后的杂事做完；再看只有心跳时用多少 CPU，至多这么久。
_SETTLE_S: Final = 5.0
_IDLE_S: Final = 10.0


async def hold(arena: Arena) -> None:
    """:raises BenchError: 没有做成"""
    before = await arena.connect()
    plan = arena.plan
    idle = await _idle(arena)
    await arena.watch.restart()
    first = len(arena.watch.rows)
    name = f"hold for {plan.seconds:g} s, {plan.rate_per_s:,.0f} messages/s"
    with arena.steps.step(name) as on_progress:
        async with arena.watch.running():
            steady, posted = await asyncio.gather(
                arena.team.publisher.ask(
                    _transient(arena), Steady, arena.watch.sending("transient")
                ),
                _trickle(arena),
            )
            rows = arena.watch.rows[first:]
            sent = steady.sent + posted.recipients
            lost = await arena.drain(sent, on_progress)
    _report(arena, steady, posted, rows)
    arena.losses(lost, sent)
    arena.cpu(rows, "message")
    _beyond_idle(arena, idle, rows)
    _growth(arena, rows)
    await arena.memory(before, arena.watch.sockets)
    await arena.team.leave()


async def _idle(arena: Arena) -> list[Row]:
    """只有心跳的一段。"""
    seconds = min(_IDLE_S, arena.plan.seconds / 3)
    with arena.steps.step(f"idle for {seconds:g} s"):
        await asyncio.sleep(min(_SETTLE_S, seconds))
        async with arena.watch.running():
            await asyncio.sleep(seconds)
            return list(arena.watch.rows)


def _beyond_idle(arena: Arena, idle: list[Row], rows: list[Row]) -> None:
    """心跳随连接数长，消息不随：各算各的。"""
    if not (arena.servers.census.known and idle and rows):
        return
    resting = served_cores(idle)
    arena.outcome.add("idle_cores", "CPU of servers and Redis, idle", resting, "cores", "lower")
    received = sum(row.received_per_s for row in rows) / len(rows)
    if received:
        extra = max(0.0, served_cores(rows) - resting) / received * 1e6
        label = "CPU per message, beyond the idle sockets"
        arena.outcome.add("cpu_us_beyond_idle", label, extra, "µs", "lower")


def transient(arena: Arena, users: list[int], rate_per_s: float, seconds: float) -> PublishSteady:
    """给 ``users`` 里随机的人的瞬时消息。"""
    keys = Keys(arena.servers.gateway.key_prefix)
    return PublishSteady(
        target=arena.servers.gateway,
        channels=[keys.user_channel(user) for user in users],
        rate_per_s=rate_per_s,
        duration_s=seconds,
        frame_bytes=arena.plan.frame_bytes,
    )


def late(arena: Arena, steady: Steady) -> None:
    """发布者自己晚了多少：它晚，延迟里就有它的一份。"""
    if steady.late_ms > _LATE_MS:
        arena.outcome.notes.append(
            f"the load generator itself was up to {steady.late_ms:,.0f} ms late"
        )
    if steady.unheard:
        arena.outcome.errors["published, nobody listened"] = steady.unheard


def _transient(arena: Arena) -> PublishSteady:
    plan = arena.plan
    assert plan.rate_per_s is not None, "hold plans have a rate"
    return transient(arena, arena.people.user_ids, plan.rate_per_s, plan.seconds)


async def _trickle(arena: Arena) -> Posted:
    plan = arena.plan
    order = Post(
        target=arena.servers.api,
        token=arena.servers.api.token(arena.people.sender_id),
        recipient_ids=arena.people.account_ids,
        recipients_per_message=plan.recipients_per_message,
        messages_per_request=1,
        duration_s=plan.seconds,
        connections=_CONNECTIONS,
        rate_per_s=plan.durable_per_s,
    )
    return await arena.team.poster.ask(order, Posted, arena.watch.sending("durable"))


def _report(arena: Arena, steady: Steady, posted: Posted, rows: list[Row]) -> None:
    out, plan = arena.outcome, arena.plan
    delivery = latency("published or POSTed to socket", arena.watch.latency)
    accept = latency("POST to 202", posted.latency)
    out.latencies += [delivery, accept]
    received = sum(row.received_per_s for row in rows) / max(1, len(rows))
    out.add("sockets", "sockets held", arena.watch.sockets)
    out.add("delivered_per_s", "delivered", received, "/s", "higher")
    out.add("p50_ms", "to socket P50", delivery.at(50), "ms", "lower")
    out.add("p95_ms", "to socket P95", delivery.at(95), "ms", "lower", goal=plan.p95_goal_ms)
    out.add("p99_ms", "to socket P99", delivery.at(99), "ms", "lower")
    late(arena, steady)
    arena.errors(posted)


def _growth(arena: Arena, rows: list[Row]) -> None:
    """这段时间里内存长了多少：久跑时看有没有泄漏。"""
    sized = [sum(row.memory.values()) for row in rows if row.memory]
    if len(sized) > 1:
        grown = sized[-1] - sized[0]
        arena.outcome.add("memory_growth", "memory grown while held", grown, "B", "lower")
