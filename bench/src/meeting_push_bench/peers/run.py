"""各方轮流：每一轮换一个次序，机器上别的活动对大家一样。

一方的一轮：连上，空闲内存，广播，单播。
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from meeting_push.errors import ConfigurationError
from meeting_push.redis.keys import Keys

from ..failure import BenchError
from ..load.orders import Join, Published, Saturate
from ..load.population import FIRST_VIRTUAL_ID
from ..load.processes import Census
from ..load.publisher import stamped_frame
from ..load.socketio_device import socketio_emit
from ..load.team import Team, team
from ..open_files import allow_sockets
from ..progress import Steps
from ..target import Target
from .contenders import Contender, check_installed, peers_directory, running, throwaway_redis
from .duel import PARTS, QUICK_DUEL, DuelPlan, DuelRun, run_duel


class PeersPlan(msgspec.Struct, frozen=True, kw_only=True):
    """每一轮每一方都是新的进程；取各轮的中位数。"""

    rounds: int = 3
    sockets: int = 2_000
    seconds: float = 5  # 扇出、单播各量这么久
    frame_bytes: int = 160
    fanout_depth: int = 4  # 每条连接在途几帧：忙不过来的服务器可以合并着写
    unicast_window: int = 1_000
    connect_concurrency: int = 64
    heartbeat_interval_s: float = 20
    settle_s: float = 2
    #: Centrifugo 的程序；没有它，它的那些行没有数字。
    centrifugo: str | None = None
    #: 只做哪几样，逗号隔开；缺省全做。
    only: str | None = None
    duel: DuelPlan = DuelPlan()

    def parts(self) -> list[str]:
        """:raises ConfigurationError: 没有这一样"""
        chosen = self.only.split(",") if self.only else [OTHERS, *PARTS]
        if unknown := [part for part in chosen if part not in (OTHERS, *PARTS)]:
            known = ", ".join((OTHERS, *PARTS))
            raise ConfigurationError(f"--only: no {', '.join(unknown)} here; there is {known}")
        return chosen


QUICK = PeersPlan(rounds=1, sockets=200, seconds=1, settle_s=0.5, duel=QUICK_DUEL)
#: Centrifugo 之外的，见 ``CONTENDERS``。
OTHERS: Final = "others"

_ROLE: Final = "server"
_FANOUT_TRIAL: Final = 5
_SOCKETIO_CHANNEL: Final = "socketio"


class PeerFigures(msgspec.Struct, frozen=True, kw_only=True):
    """一方的一轮；内存是进程的增长除以连接数，CPU 是服务器进程的。"""

    contender: str
    connects_per_s: float
    memory_per_socket: float
    fanout_per_s: float
    fanout_cpu_us: float
    unicast_per_s: float
    unicast_cpu_us: float
    lost: int


class _Speed(msgspec.Struct, frozen=True, kw_only=True):
    per_s: float
    cpu_us: float
    lost: int


async def take_turn(
    contender: Contender, target: Target, pid: int, plan: PeersPlan, team: Team
) -> PeerFigures:
    """:raises BenchError: 有的没连上，或一帧也没有到"""
    await team.ready()
    census = Census({_ROLE: [pid]})
    users = list(range(FIRST_VIRTUAL_ID, FIRST_VIRTUAL_ID + plan.sockets))
    before = census.memory_bytes()[_ROLE]
    connects_per_s = await _connect(contender, target, users, plan, team)
    await asyncio.sleep(plan.settle_s)
    memory = (census.memory_bytes()[_ROLE] - before) / plan.sockets
    round_ = _Round(contender, target, plan, team, census)
    fanout = await round_.fanout(users)
    unicast = await round_.unicast(users)
    await team.leave()
    return PeerFigures(
        contender=contender.name,
        connects_per_s=connects_per_s,
        memory_per_socket=memory,
        fanout_per_s=fanout.per_s,
        fanout_cpu_us=fanout.cpu_us,
        unicast_per_s=unicast.per_s,
        unicast_cpu_us=unicast.cpu_us,
        lost=fanout.lost + unicast.lost,
    )


async def _connect(
    contender: Contender, target: Target, users: list[int], plan: PeersPlan, team: Team
) -> float:
    def order(part: list[int], first_index: int) -> Join:
        return Join(
            target=target,
            user_ids=part,
            first_index=first_index,
            concurrency=plan.connect_concurrency,
            # Socket.IO 由服务器 ping
            heartbeat_interval_s=0
            if contender.dialect == "socketio"
            else plan.heartbeat_interval_s,
            dialect=contender.dialect,
            measure_every=0,
            frame_bytes=plan.frame_bytes,
        )

    start = time.monotonic()
    joined = await team.join(users, order)
    if joined.connected != len(users):
        raise BenchError(f"{contender.name}: {joined.connected} of {len(users)} connected")
    return joined.connected / (time.monotonic() - start)


class _Round:
    def __init__(
        self, contender: Contender, target: Target, plan: PeersPlan, team: Team, census: Census
    ) -> None:
        self._contender = contender
        self._target = target
        self._plan = plan
        self._team = team
        self._census = census

    async def fanout(self, users: Sequence[int]) -> _Speed:
        channels, payloads = self._messages([None])
        reach = len(users)
        order = self._order(channels, payloads, reach, reach * self._plan.fanout_depth)
        return await self._fastest(order, _FANOUT_TRIAL)

    async def unicast(self, users: Sequence[int]) -> _Speed:
        channels, payloads = self._messages(users)
        order = self._order(channels, payloads, 1, self._plan.unicast_window)
        return await self._fastest(order, len(users))

    async def _fastest(self, order: Saturate, trial: int) -> _Speed:
        """先试几个，估出要发多少才够 ``seconds`` 秒。"""
        tried = await self._publish(order, trial)
        if not tried.arrived:
            raise BenchError(f"{self._contender.name}: nothing arrived")
        publishes = max(trial, int(trial / tried.elapsed_s * self._plan.seconds))
        before = self._census.cpu_seconds()[_ROLE]
        most = await self._publish(order, publishes)
        used = self._census.cpu_seconds()[_ROLE] - before
        return _Speed(
            per_s=most.arrived / most.elapsed_s,
            cpu_us=used / max(1, most.arrived) * 1e6,
            lost=publishes * order.reach - most.arrived,
        )

    async def _publish(self, order: Saturate, publishes: int) -> Published:
        order = msgspec.structs.replace(order, publishes=publishes)
        return await self._team.publisher.ask(order, Published)

    def _order(
        self, channels: list[str], payloads: list[bytes], reach: int, window: int
    ) -> Saturate:
        return Saturate(
            target=self._target,
            channels=channels,
            payloads=tuple(payloads),
            reach=reach,
            publishes=0,
            window=window,
        )

    def _messages(self, users: Sequence[int | None]) -> tuple[list[str], list[bytes]]:
        """给每个用户（None：所有人）的频道与内容；内容都是同一帧，只是各自的信封。"""
        frame = stamped_frame(self._plan.frame_bytes, time.monotonic_ns())
        if self._contender.dialect == "socketio":
            rooms = [None if user is None else f"user:{user}" for user in users]
            payloads = [socketio_emit(room, frame) for room in rooms]
            return [_SOCKETIO_CHANNEL] * len(payloads), payloads
        keys = Keys(self._target.key_prefix)
        channels = [
            keys.broadcast_channel if user is None else keys.user_channel(user) for user in users
        ]
        return channels, [frame] * len(channels)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    others: list[PeerFigures]
    duel: list[DuelRun]


def run_peers(
    contenders: tuple[Contender, ...],
    plan: PeersPlan,
    steps: Steps,
    database_url: str | None = None,
) -> Measured:
    """``database_url``：见 ``run_duel``。

    :raises BenchError: 缺什么，或哪一步没有做成
    """
    parts = plan.parts()
    peers_directory()
    chosen = [part for part in PARTS if part in parts]
    return Measured(
        others=_run_others(contenders, plan, steps) if OTHERS in parts else [],
        duel=run_duel(plan.duel, plan.centrifugo, chosen, steps, database_url),
    )


def _run_others(
    contenders: tuple[Contender, ...], plan: PeersPlan, steps: Steps
) -> list[PeerFigures]:
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
            return uvloop.run(take_turn(contender, target, pid, plan, load))
