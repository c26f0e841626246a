"""先安静，再一种坏法接一种：老实人在别处，再与攻击者同一个地址。"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..failure import BenchError
from ..load_process import LoadProcess
from ..measured import MeasuredReport, Measurements, measured_run
from ..open_files import allow_sockets
from ..progress import Steps, silent
from ..report import Heading
from ..server_under_test import ServerUnderTest
from . import attacker, life
from .attacks import ATTACKS
from .besieged import Besieged, Size
from .founding import found_town, precious_kept
from .grounds import ELSEWHERE, GROUNDS, Ground, events_waiting, most_events, server_on
from .orders import (
    ATTACKER_ADDRESS,
    HONEST_ADDRESS,
    Attack,
    Attacked,
    Live,
    Lived,
    SiegePlan,
    Town,
)

#: 猜密码的与老实人在同一个 /64 里（A12）。
_IPV6_NEIGHBOUR: Final = "2001:db8:0:66::abcd"
_TIMEOUT_S: Final = 120.0
_SETTLE_S: Final = 1.0
_SOCKETS: Final = 4_000
_RATIO_GOAL: Final = 3.0
_RSS_GOAL_MB: Final = 100
_STORE_GOAL_MB: Final = 250
_LOG_GOAL: Final = 1_000
#: 全部坏法两遍合计：发得比这还少，围的就不是城。
_SENT_GOAL_MB: Final = 800
_FULL: Final = 10.0


def run_siege(plan: SiegePlan, heading: Heading, steps: Steps) -> MeasuredReport:
    """:raises BenchError: 起不来，或服务器死了"""
    allow_sockets(_SOCKETS)  # 服务器进程继承它
    os.umask(0o022)  # 也继承：文件的权限不该靠它（A15）
    return measured_run(plan, _measure, heading, steps)


async def _measure(plan: SiegePlan, found: Measurements, steps: Steps) -> None:
    names = _names(plan)
    for ground in GROUNDS:
        attacks = [name for name in names if ELSEWHERE.get(name, "") == ground]
        if not attacks:
            continue
        async with server_on(ground) as server:
            with LoadProcess(attacker.main) as enemy, LoadProcess(life.main) as people:
                with steps.step("people, a meeting, a crowd"):
                    town = await found_town(server, plan, accounts=ground != "application")
                siege = _Siege(server, town, plan, enemy, people, ground)
                await siege.run(attacks, found, steps)


def _names(plan: SiegePlan) -> list[str]:
    """:raises BenchError: 没有那种坏法"""
    chosen = [one.strip().upper() for one in plan.only.split(",") if one.strip()]
    unknown = [one for one in chosen if one not in ATTACKS]
    if unknown:
        raise BenchError(f"no such attack: {', '.join(unknown)}; there are {', '.join(ATTACKS)}")
    return chosen or list(ATTACKS)


@dataclass(slots=True)
class _Siege:
    server: ServerUnderTest
    town: Town
    plan: SiegePlan
    enemy: LoadProcess
    people: LoadProcess
    ground: Ground

    async def run(self, attacks: Sequence[str], found: Measurements, steps: Steps) -> None:
        besieged = Besieged(self.server)
        async with besieged.watched():
            with steps.step("quiet"):
                await self._live(HONEST_ADDRESS, None, self.plan.quiet_s / 3)  # 热身
                quiet = await self._live(HONEST_ADDRESS, None, self.plan.quiet_s)
            _quiet(found, quiet, self.ground)
            calm, before = besieged.peak_rss, await besieged.size()
            start, sent = time.monotonic(), 0
            for name in attacks:
                for where, address in (("elsewhere", HONEST_ADDRESS), ("beside", ATTACKER_ADDRESS)):
                    with steps.step(f"{name}, honest people {where}"):
                        peak, stored = besieged.peak_rss, await besieged.size()
                        sent += await self._attack(name, where, address, quiet, found)
                    grown = (besieged.peak_rss - peak) / 1e6
                    found.add(f"{name}.{where}.rss", "  server grew (peak RSS)", grown, "MB")
                    _grown(found, f"{name}.{where}", stored, await besieged.size())
                    besieged.check_alive()
            minutes = (time.monotonic() - start) / 60
            after = await besieged.size()
        where = f"{self.ground}." if self.ground else ""
        whole = not self.plan.only and self.plan.seconds >= _FULL and not where
        goal = _SENT_GOAL_MB if whole else None
        found.add(f"{where}sent", "sent in all", sent / 1e6, "MB", "higher", goal)
        grown = (besieged.peak_rss - calm) / 1e6
        found.add(f"{where}rss", "server grew (peak RSS)", grown, "MB", "lower", _RSS_GOAL_MB)
        _stores(found, where, before, after, minutes)
        if self.ground == "webhooks":
            most = most_events(60 * minutes, int(self.plan.sends_per_s * 60 * minutes))
            waiting = events_waiting(self.server)
            found.add(
                "events", "events that wait for a silent receiver", waiting, "", "lower", most
            )
        if self.ground:
            found.add(f"{where}tracebacks", "tracebacks", besieged.tracebacks(), "", "lower", 0)
            return
        kept = await precious_kept(self.town)
        found.add("precious", "A4: a friend's urgent message kept", kept, "", "higher", 1)
        others = len(besieged.readable_by_others())
        found.add("readable", "A15: files others can read", others, "", "lower", 0)
        found.add("forged", "A13: forged log lines", besieged.forged_lines(), "", "lower", 0)
        found.add("tracebacks", "tracebacks in the log", besieged.tracebacks(), "", "lower", 0)

    async def _attack(
        self, name: str, where: str, address: str, quiet: Lived, found: Measurements
    ) -> int:
        plan = self.plan
        seconds = plan.lead_s + plan.seconds
        order = Attack(town=self.town, name=name, address=ATTACKER_ADDRESS, seconds=seconds)
        attacking = asyncio.create_task(
            asyncio.to_thread(self.enemy.ask, order, Attacked, _TIMEOUT_S, silent)
        )
        await asyncio.sleep(plan.lead_s)
        forwarded = _IPV6_NEIGHBOUR if name == "A12" and where == "beside" else None
        lived = await self._live(address, forwarded, plan.seconds)
        attacked = await attacking
        _phase(found, name, where, lived, quiet, attacked)
        await asyncio.sleep(_SETTLE_S)
        return attacked.sent_bytes

    async def _live(self, address: str, forwarded: str | None, seconds: float) -> Lived:
        order = Live(
            town=self.town, plan=self.plan, address=address, forwarded=forwarded, seconds=seconds
        )
        return await asyncio.to_thread(self.people.ask, order, Lived, _TIMEOUT_S, silent)


def _p95_ms(lived: Lived, what: str) -> float:
    latency = lived.latencies.get(what)
    return latency.percentile(95) / 1000 if latency is not None and latency.count else 0.0


def _quiet(found: Measurements, quiet: Lived, ground: Ground) -> None:
    name = f"quiet.{ground}" if ground else "quiet"
    for what in sorted(quiet.latencies):
        found.add(f"{name}.{what}", f"{name}: {what} P95", _p95_ms(quiet, what), "ms", "lower")
    if quiet.refused:
        raise BenchError(f"refused without any attack: {quiet.refused}")


def _phase(
    found: Measurements, name: str, where: str, lived: Lived, quiet: Lived, attacked: Attacked
) -> None:
    """一行：最坏的那件事是安静时的几倍；再一行：没有做成的。"""
    ratios = {
        what: _p95_ms(lived, what) / before
        for what in quiet.latencies
        if (before := _p95_ms(quiet, what))
    }
    worst = max(ratios, key=lambda what: ratios[what])
    shown = ", ".join(f"{what} {_p95_ms(lived, what):.0f} ms" for what in sorted(ratios))
    label = f"{name} {where}: {shown}; {worst} ÷ quiet"
    found.add(f"{name}.{where}", label, ratios[worst], "×", "lower", _RATIO_GOAL)
    reasons = "; ".join(f"{count} × {why}" for why, count in lived.refused.items())
    count = sum(lived.refused.values())
    found.add(f"{name}.{where}.refused", f"  honest refused {reasons}", count, "", "lower", 0)
    answers = ", ".join(f"{count} × {what}" for what, count in sorted(attacked.answers.items()))
    sent = attacked.sent_bytes / 1e6
    found.add(f"{name}.{where}.sent", f"  attacker sent; answers {answers}", sent, "MB")


def _grown(found: Measurements, phase: str, before: Size, after: Size) -> None:
    for name in ("redis", "database"):
        grown = (getattr(after, name) - getattr(before, name)) / 1e6
        found.add(f"{phase}.{name}", f"  {name} grew", grown, "MB")


def _stores(found: Measurements, where: str, before: Size, after: Size, minutes: float) -> None:
    redis, database = after.redis - before.redis, after.database - before.database
    grown = (redis + database) / 1e6
    label = f"Redis {redis / 1e6:.0f} MB + database {database / 1e6:.0f} MB grew"
    found.add(f"{where}stores", label, grown, "MB", "lower", _STORE_GOAL_MB)
    lines = (after.log_lines - before.log_lines) / minutes
    found.add(f"{where}log", "log lines a minute", lines, "", "lower", _LOG_GOAL)
