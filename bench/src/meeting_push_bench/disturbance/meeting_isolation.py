"""ISO-1：会议灌到它的上限时，用户连接的延迟至多加倍。"""

from __future__ import annotations

import asyncio
from typing import Final

from meeting_push.settings import Settings

from ..accounts import Accounts, make_accounts
from ..failure import BenchError
from ..latency_figures import LatencyFigures
from ..progress import Steps
from ..server_under_test import ServerUnderTest
from .figures import Disturbance, FloodOutcome, Mode, Phase
from .meeting_flood import MeetingFlood, create_meeting, meeting_flood
from .neighbours import Neighbours, neighbours
from .plan import DisturbancePlan

_JUST_BELOW: Final = 0.95
_ORDER: Final[tuple[Mode, ...]] = ("without", "with", "with", "without")


def meeting_isolation(
    edge: str, server: ServerUnderTest, plan: DisturbancePlan, steps: Steps
) -> Disturbance:
    """:raises BenchError: 有一条消息没有到，或会议的连接被关了"""
    crowd = plan.speakers + plan.listeners
    accounts = make_accounts(server.target, plan.neighbours + crowd)
    people = accounts.recipient_ids
    others = Accounts(accounts.sender_id, people[crowd:])
    return asyncio.run(_run(edge, server, plan, others, people[:crowd], steps))


async def _run(
    edge: str,
    server: ServerUnderTest,
    plan: DisturbancePlan,
    accounts: Accounts,
    crowd: list[int],
    steps: Steps,
) -> Disturbance:
    target = server.target
    meeting_id = await create_meeting(target, crowd[0], crowd[1:])
    phases: list[Phase] = []
    floods: list[FloodOutcome] = []
    async with neighbours(target, accounts, plan.rate_per_s) as people:
        await people.measure(plan.warm_up_s)
        for number, mode in enumerate(_ORDER * plan.rounds):
            # 会议的人两种情形里都到场，只差说不说
            async with meeting_flood(target, meeting_id, crowd, plan) as flood:
                with steps.step(f"{edge} {number + 1}: {mode} a flooded meeting"):
                    if mode == "with":
                        latencies = await _during(flood, people, plan)
                        floods.append(flood.outcome(plan.phase_s))
                    else:
                        latencies = await people.measure(plan.phase_s)
            phases.append(Phase(mode=mode, latencies=latencies))
        if lost := await people.disconnect():
            raise BenchError(f"the server closed {lost} neighbours")
    return Disturbance(edge=edge, phases=phases, floods=floods)


async def _during(
    flood: MeetingFlood, people: Neighbours, plan: DisturbancePlan
) -> dict[str, LatencyFigures]:
    """会议的上限就是服务器的默认设置；只差一点，才不会被拒绝。"""
    rate_per_s = Settings().meeting_frames_per_s * _JUST_BELOW
    flooding = asyncio.create_task(flood.run(rate_per_s, plan.text_chars))
    measuring = asyncio.create_task(people.measure(plan.phase_s))
    await asyncio.wait({flooding, measuring}, return_when=asyncio.FIRST_COMPLETED)
    if flooding.done():
        measuring.cancel()
        flooding.result()
    flooding.cancel()
    await asyncio.gather(flooding, return_exceptions=True)
    return await measuring
