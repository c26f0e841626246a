"""各方轮流：每一轮换一个次序，机器上别的活动对大家一样。"""

from __future__ import annotations

import tempfile
from pathlib import Path

import uvloop

from ..load.team import team
from ..open_files import allow_sockets
from ..progress import Steps
from .contenders import Contender, check_installed, peers_directory, running, throwaway_redis
from .duel import PeerFigures, duel
from .plan import PeersPlan


def run_peers(
    contenders: tuple[Contender, ...], plan: PeersPlan, steps: Steps
) -> list[PeerFigures]:
    """:raises BenchError: 缺什么，或哪一步没有做成"""
    peers_directory()
    check_installed(contenders)
    allow_sockets(plan.sockets)
    figures = []
    with steps.showing():
        for turn in range(plan.rounds):
            first = turn % len(contenders)
            for contender in (*contenders[first:], *contenders[:first]):
                with steps.step(f"{turn + 1}/{plan.rounds} {contender.name}"):
                    figures.append(_one(contender, plan))
    return figures


def _one(contender: Contender, plan: PeersPlan) -> PeerFigures:
    with tempfile.TemporaryDirectory(prefix="mp-peers-") as name:
        directory = Path(name)
        with (
            throwaway_redis(directory) as redis_url,
            running(contender, directory, redis_url) as (target, pid),
            team(plan.sockets, 1) as load,
        ):
            return uvloop.run(duel(contender, target, pid, plan, load))
