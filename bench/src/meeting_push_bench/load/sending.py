"""场景 send：REST 接受 → SQL → 队列 → 工人 → 套接字 → 客户端的 ack 被记录。

先闭环量出满载（接受了多少，到全部到达用了多久），再以它的几成开环地跑；积压不该随时间增长。
最后问 REST：发出的消息在服务器的记录里成了什么。
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ulid import ULID

from meeting_push.client.rest_client import RestClient
from meeting_push.errors import MeetingPushError
from meeting_push.monitoring.latency import LatencyHistogram

from ..failure import BenchError
from ..progress import OnProgress
from ..target import Target
from .arena import GRACE_S, Arena
from .orders import Post, Posted
from .plan import LoadPlan
from .result import Row, latency

#: 再多就抽样：每条消息一次 REST。
MAX_CHECKED: Final = 500
_GRACE_S: Final = 30.0
_AT_ONCE: Final = 4
_PAGE: Final = 200


@dataclass(slots=True)
class Records:
    """``recipients`` 是查过的消息的收件人；``latency``：接受 → 客户端的 ack，毫秒（墙上的钟）。"""

    messages: int = 0
    recipients: int = 0
    delivered: int = 0
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)


async def check_records(
    target: Target, sender_id: int, message_ids: Sequence[str], on_progress: OnProgress
) -> Records:
    """等到查的每一条都全部送达，或 ``_GRACE_S`` 到了。

    :raises BenchError: REST 不回答
    """
    step = max(1, -(-len(message_ids) // MAX_CHECKED))
    chosen = list(message_ids[::step])
    client = RestClient(target.base_url, target.token(sender_id))
    deadline, records = time.monotonic() + _GRACE_S, Records(messages=len(chosen))
    todo = iter(chosen)

    async def some() -> None:
        for message_id in todo:
            await _check(client, message_id, deadline, records)
            on_progress(len(chosen) - _left(todo), len(chosen))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(some())
    except* MeetingPushError as failures:
        raise BenchError(f"the delivery states: {failures.exceptions[0]}") from None
    return records


def _left(todo: object) -> int:
    left: int = todo.__length_hint__()  # type: ignore[attr-defined]
    return left


async def _check(client: RestClient, message_id: str, deadline: float, records: Records) -> None:
    report = await client.delivery(message_id, limit=_PAGE)
    total = report.total or 0  # 广播数不出人数；这里不问广播
    while report.delivered < total and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        report = await client.delivery(message_id, limit=_PAGE)
    accepted_at = ULID.from_str(message_id).milliseconds
    for recipient in report.recipients:
        if recipient.delivered_at is not None:
            records.latency.record(max(0, recipient.delivered_at - accepted_at))
    records.recipients += total
    records.delivered += report.delivered


#: 闭环量满载的并发；开环时同时在途的上限。
_BURST_CONNECTIONS: Final = 16
_OPEN_CONNECTIONS: Final = 64
_ACCEPTED: Final = "202"
#: 满载之后，最后的 ack 还在写进记录。
_CALM_S: Final = 2.0
#: 一分钟里积压多出半秒的量，就不算稳得住。
_MAX_GROWTH_S: Final = 0.5


async def send(arena: Arena) -> None:
    """:raises BenchError: 没有做成"""
    before = await arena.connect()
    plan = arena.plan
    rate = plan.rate_per_s or await _share_of_capacity(arena)
    await arena.watch.restart()
    with arena.steps.step(f"send to {rate:,.0f} recipients/s for {plan.seconds:g} s") as progress:
        async with arena.watch.running():
            posted = await arena.team.poster.ask(
                _order(arena, _OPEN_CONNECTIONS, plan.seconds, rate),
                Posted,
                arena.watch.sending("durable"),
            )
            rows = list(arena.watch.rows)
            lost = await arena.drain(posted.recipients, progress)
    await _report(arena, posted, rows, rate, lost)
    await arena.memory(before, arena.watch.sockets)
    await arena.team.leave()


async def _share_of_capacity(arena: Arena) -> float:
    """满载是收件人每秒，从第一次 POST 到最后一个套接字；到最后一个确认入了记录的才是稳得住的。"""
    plan = arena.plan
    with arena.steps.step(f"full load for {plan.calibrate_s:g} s") as on_progress:
        # 热身：首次使用才做的事不算，它留下的积压也不算
        warm = await _burst(arena, min(1.0, plan.calibrate_s / 4))
        await arena.drain(warm.recipients, on_progress)
        await arena.redis.all_recorded(arena.people.account_ids, GRACE_S)
        start = time.monotonic()
        posted = await _burst(arena, plan.calibrate_s)
        await arena.drain(posted.recipients, on_progress)
        capacity = posted.recipients / (time.monotonic() - start)
        await arena.redis.all_recorded(arena.people.account_ids, GRACE_S)
        recorded = posted.recipients / (time.monotonic() - start)
        await asyncio.sleep(_CALM_S)
    arena.outcome.add("capacity_per_s", "full load, recipients", capacity, "/s", "higher")
    label = "full load, recipients to recorded ack"
    arena.outcome.add("recorded_per_s", label, recorded, "/s", "higher")
    return max(1.0, recorded * plan.load_share)


async def _burst(arena: Arena, seconds: float) -> Posted:
    await arena.watch.restart()
    posted = await arena.team.poster.ask(_order(arena, _BURST_CONNECTIONS, seconds, None), Posted)
    refused = {k: n for k, n in posted.answers.items() if k != _ACCEPTED}
    if refused:
        arena.outcome.notes.append(f"refused at full load: {refused}")
    return posted


def _order(arena: Arena, connections: int, seconds: float, rate: float | None) -> Post:
    plan: LoadPlan = arena.plan
    return Post(
        target=arena.servers.api,
        token=arena.servers.api.token(arena.people.sender_id),
        recipient_ids=arena.people.account_ids,
        recipients_per_message=plan.recipients_per_message,
        messages_per_request=plan.messages_per_request,
        duration_s=seconds,
        connections=connections,
        rate_per_s=rate,
    )


async def _report(arena: Arena, posted: Posted, rows: list[Row], rate: float, lost: int) -> None:
    plan, out = arena.plan, arena.outcome
    delivery = latency("POST to socket", arena.watch.latency)
    accept = latency("POST to 202", posted.latency)
    out.latencies += [delivery, accept]
    out.add("rate_per_s", "offered, recipients", rate, "/s")
    received = arena.watch.received / max(plan.seconds, posted.elapsed_s)
    out.add("delivered_per_s", "delivered, recipients", received, "/s", "higher")
    goal = plan.p95_goal_ms
    out.add("p50_ms", "POST to socket P50", delivery.at(50), "ms", "lower")
    out.add("p95_ms", "POST to socket P95", delivery.at(95), "ms", "lower", goal=goal)
    out.add("p99_ms", "POST to socket P99", delivery.at(99), "ms", "lower")
    out.add("accept_p95_ms", "POST to 202 P95", accept.at(95), "ms", "lower")
    await _records(arena, posted)
    growth = backlog_growth_s(rows, rate)
    out.add("backlog_growth_s", "backlog growth", growth, "s", "lower", goal=_MAX_GROWTH_S)
    arena.errors(posted)
    arena.losses(lost, posted.recipients)
    arena.cpu(rows, "recipient")


async def _records(arena: Arena, posted: Posted) -> None:
    with arena.steps.step("delivery states in the record") as on_progress:
        records = await check_records(
            arena.servers.api, arena.people.sender_id, posted.message_ids, on_progress
        )
    if not records.recipients:
        return
    out = arena.outcome
    share = records.delivered / records.recipients * 100
    out.add("recorded", "acks in the record", share, "%", "higher", goal=100)
    if records.latency.count:
        p95 = records.latency.percentile(95)
        out.add("ack_p95_ms", "accepted to acked P95", p95, "ms", "lower")
    if records.messages < len(posted.message_ids):
        out.notes.append(
            f"the record was asked about {records.messages} of {len(posted.message_ids)} messages"
        )


def backlog_growth_s(rows: Sequence[Row], rate_per_s: float) -> float:
    """已接受而未到达的，后四分之一比第二个四分之一多了几秒的量。"""
    backlog = [row.sent - row.received for row in rows]
    quarter = len(backlog) // 4
    if not quarter:
        return 0.0
    early, late = backlog[quarter : 2 * quarter], backlog[-quarter:]
    return max(0.0, (statistics.mean(late) - statistics.mean(early)) / rate_per_s)
