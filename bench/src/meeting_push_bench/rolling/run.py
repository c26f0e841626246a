"""一边发、一边收，节点一个接一个地重启；最后每台设备对每一条的账。"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from meeting_push.monitoring.latency import LatencyHistogram

from ..accounts import Accounts, make_accounts
from ..failure import BenchError
from ..measured import MeasuredReport, Measurements, measured_run
from ..progress import Steps
from ..report import Heading
from .nodes import Nodes, nodes
from .people import Device, Sender, devices


class RollingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``calm_s``：开始之前、每两次重启之间、最后，各安静这么久。"""

    nodes: int = 3
    users: int = 50
    devices_each: int = 2
    rate_per_s: float = 50
    calm_s: float = 5


QUICK_ROLLING: Final = RollingPlan(nodes=2, users=3, devices_each=1, rate_per_s=10, calm_s=1)


#: 最后几条到齐的期限。
_GRACE_S: Final = 30.0
_POLL_S: Final = 0.05
_ACCEPTED_GOAL: Final = 99.9


def run_rolling(plan: RollingPlan, heading: Heading, steps: Steps) -> MeasuredReport:
    """:raises BenchError: 一个节点没有起来或没有好好退出，或一条发送再三不成"""
    return measured_run(plan, _measure, heading, steps)


async def _measure(plan: RollingPlan, found: Measurements, steps: Steps) -> None:
    async with nodes(plan.nodes) as several:
        with steps.step(f"{plan.users} accounts"):
            accounts = await asyncio.to_thread(make_accounts, several.target, plan.users)
        await _roll(several, accounts, plan, found, steps)


async def _roll(
    several: Nodes, accounts: Accounts, plan: RollingPlan, found: Measurements, steps: Steps
) -> None:
    latency = LatencyHistogram()
    sender = Sender(several.target, accounts)
    users, each = accounts.recipient_ids, plan.devices_each
    async with devices(several.target, users, each, latency) as people:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(_keep_sending(sender, plan.rate_per_s))
            await asyncio.sleep(plan.calm_s)
            start = time.monotonic()
            for number in range(plan.nodes):
                with steps.step(f"restart node {number + 1}"):
                    await several.restart_oldest()
                await asyncio.sleep(plan.calm_s)
            found.add("rolled_s", f"{plan.nodes} restarts", time.monotonic() - start, "s")
            sending.cancel()
        with steps.step("the last arrivals"):
            missing = await _all_arrived(people, sender)
    _report(found, sender, people, missing, latency)


async def _keep_sending(sender: Sender, rate_per_s: float) -> None:
    """开环；被取消时已发出的都做完。"""
    async with asyncio.TaskGroup() as group:
        start, sent = time.monotonic_ns(), 0
        try:
            while True:
                at_ns = start + int(sent * 1e9 / rate_per_s)
                await asyncio.sleep(max(0, (at_ns - time.monotonic_ns()) / 1e9))
                group.create_task(sender.send(at_ns))
                sent += 1
        except asyncio.CancelledError:
            return


async def _all_arrived(people: Sequence[Device], sender: Sender) -> int:
    """等到齐；返回还缺几个（设备，消息）。"""
    deadline = time.monotonic() + _GRACE_S
    while missing := _missing(people, sender):
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(_POLL_S)
    return missing


def _missing(people: Sequence[Device], sender: Sender) -> int:
    return sum(len(sender.sent[one.user_id] - one.received.keys()) for one in people)


def _report(
    found: Measurements,
    sender: Sender,
    people: Sequence[Device],
    missing: int,
    latency: LatencyHistogram,
) -> None:
    if not sender.attempted:
        raise BenchError("nothing was sent")
    accepted = sum(map(len, sender.sent.values()))
    first = sender.first_tries / sender.attempted * 100
    found.add("sends", "sends", sender.attempted)
    found.add("first", "accepted at the first try", first, "%", "higher", _ACCEPTED_GOAL)
    found.add("accepted", "accepted", accepted / sender.attempted * 100, "%", "higher", 100)
    for reason, count in sender.refusals.items():
        found.add(f"refused.{reason}", f"  {reason}", count, "", "lower")
    found.add("devices", "devices", len(people))
    found.add("missing", "missing on a device", missing, "", "lower", 0)
    twice = sum(1 for one in people for times in one.received.values() if times > 1)
    found.add("twice", "seen twice by the application", twice, "", "lower", 0)
    failed = sum(one.failed for one in people)
    found.add("failed", "devices whose application saw an error", failed, "", "lower", 0)
    for percent in (50, 95, 99, 100):
        name = "longest" if percent == 100 else f"P{percent}"
        ms = latency.percentile(percent) / 1000
        found.add(f"p{percent}_ms", f"POST to application, {name}", ms, "ms", "lower")
