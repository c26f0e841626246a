"""搭台，跑一个场景，收起，写下结果。"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
import uvloop

from meeting_push.errors import MeetingPushError

from ..failure import BenchError
from ..open_files import SPARE_FILES, allow_sockets, hard_limit
from ..progress import Steps
from ..report import Heading
from .arena import LOAD, Arena, Outcome
from .fanout import fanout
from .hold import hold
from .plan import LoadPlan, Scenario
from .population import populate
from .processes import Census
from .redis_probe import redis_probe
from .result import Result, Row
from .sending import send
from .servers import Options, Servers, servers
from .storm import storm
from .team import Team, gateways_for, most_per_gateway, team
from .unicast import unicast
from .watch import Watch

_SCENARIOS: Final[Mapping[Scenario, Callable[[Arena], Awaitable[None]]]] = {
    "send": send,
    "hold": hold,
    "fanout": fanout,
    "unicast": unicast,
    "storm": storm,
}


def run_profile(plan: LoadPlan, options: Options, heading: Heading, steps: Steps) -> Result:
    """启动（或找到）服务器，跑，收起。

    :raises BenchError: 没有做成；没有部分的结果
    """
    gateways = _gateways(plan)
    if options.url is None:
        _allow(plan, gateways)
    with contextlib.ExitStack() as stack:
        stack.enter_context(steps.showing())
        with steps.step("servers"):
            under_test = stack.enter_context(servers(gateways, options))
        return run_on(under_test, plan, heading, steps)


def run_on(under_test: Servers, plan: LoadPlan, heading: Heading, steps: Steps) -> Result:
    """:raises BenchError: 没有做成"""
    with team(plan.sockets, plan.load_processes, 1 if plan.bystanders else 0) as load:
        outcome, rows = uvloop.run(_run(plan, under_test, load, steps))
    return Result(
        **msgspec.structs.asdict(heading),
        plan=plan,
        servers=under_test.census.process_count(),
        figures=outcome.figures,
        latencies=outcome.latencies,
        errors=outcome.errors,
        notes=outcome.notes,
        rows=rows,
        curves=outcome.curves,
    )


def _gateways(plan: LoadPlan) -> int:
    """要几个网关才都在硬上限以内；0：一个进程什么都做。"""
    sockets = plan.sockets + plan.bystanders
    return gateways_for(sockets, hard_limit(), plan.gateways) if plan.gateways else 0


def _allow(plan: LoadPlan, gateways: int) -> None:
    """提高服务器进程将继承的软上限。

    :raises BenchError: 只有一个进程，而它装不下
    """
    most = most_per_gateway(plan.sockets + plan.bystanders, max(1, gateways))
    allow_sockets(min(most, hard_limit() - SPARE_FILES) if gateways else most)


async def _run(
    plan: LoadPlan, under_test: Servers, load: Team, steps: Steps
) -> tuple[Outcome, list[Row]]:
    try:
        await load.ready()
        async with redis_probe(under_test.api) as redis:
            with steps.step("accounts") as on_progress:
                people = await populate(under_test, plan.sockets, plan.accounts, on_progress)
            census = Census({LOAD: load.pids})
            watch = Watch(load, under_test.census, census, redis)
            arena = Arena(plan, under_test, load, redis, people, watch, steps, Outcome())
            await _SCENARIOS[plan.scenario](arena)
            return arena.outcome, watch.rows
    except* MeetingPushError as failures:
        error: BaseException = failures
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        reason = error.message if isinstance(error, MeetingPushError) else str(error)
        raise BenchError(reason) from None
