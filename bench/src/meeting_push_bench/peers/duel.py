"""与 Centrifugo 逐项相比：同样的客户端、令牌、正文、Redis，轮流上场。

一边的一轮是两个新的服务器：瞬时的（Redis 不落盘）：内存、连接、单播、扇出、重连风暴；
耐久的（AOF everysec）：一个请求一条（闭环，开环），一个请求一百条。
我们的走到确认进了记录为止，它的走到套接字为止（历史在 Redis 里，断线的人从它补齐）。
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from ..failure import BenchError
from ..load.processes import Census
from ..load.redis_probe import redis_probe
from ..open_files import allow_sockets
from ..progress import Steps
from ..sampler import cpu_seconds
from ..server_under_test import free_port
from .contenders import OURS, redis_running
from .duel_arms import CENTRIFUGO, Arm, Ours, centrifugo, ours
from .duel_client import (
    COMPILER,
    Listener,
    Listening,
    Posting,
    Sender,
    build,
    compiler_missing,
    listening,
)

TRANSIENT: Final = "transient"
DURABLE: Final = "durable"
PARTS: Final = (TRANSIENT, DURABLE)
_SERVER: Final = "server"
_WARM: Final = 200
_GRACE_S: Final = 2.0
_RECORD_GRACE_S: Final = 30.0
#: 单播的速率要它站得住：P95 不到这么多。
P95_MS: Final = 50.0
#: 发的一方自己晚了这么多，就是它先到了顶。
_LATE_MS: Final = 20.0
_SINGLE_CONNECTIONS: Final = 16
_BATCH_CONNECTIONS: Final = 4
_PACED_CONNECTIONS: Final = 64


class DuelPlan(msgspec.Struct, frozen=True, kw_only=True):
    rounds: int = 3
    seconds: float = 4
    sockets: int = 5_000
    storm_sockets: int = 10_000
    users: int = 2_000  # 耐久的收件人
    frame_bytes: int = 160
    unicast_per_s: float = 40_000  # CPU 在这个速率上比
    ladder: tuple[float, ...] = (50_000, 60_000, 70_000, 80_000, 90_000, 100_000)
    broadcasts_per_s: float = 60
    paced_per_s: float = 500
    batch: int = 100
    settle_s: float = 2
    #: 耐久的，我们分成 api、网关、工人三个进程；不然是一个。
    split: bool = False
    #: 两边的 Redis 用哪个程序；None 是内嵌的那一个。
    redis_server: str | None = None


QUICK_DUEL: Final = DuelPlan(
    rounds=1,
    seconds=1,
    sockets=200,
    storm_sockets=400,
    users=100,
    unicast_per_s=1_000,
    ladder=(2_000,),
    broadcasts_per_s=5,
    paced_per_s=100,
    settle_s=0.5,
)

Figures = dict[str, float]
Start = Callable[[Path, str, bool], AbstractContextManager[Arm]]


class DuelRun(msgspec.Struct, frozen=True, kw_only=True):
    """一边的一轮；没有量的不在 ``figures`` 里。"""

    arm: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class Ring:
    """一边站在这里：它，它的 Redis，共用的客户端。"""

    arm: Arm
    plan: DuelPlan
    directory: Path
    sender: Sender
    redis_port: int
    redis_pid: int

    def cpu_s(self) -> tuple[float, float]:
        """服务器的，Redis 的。"""
        return self._census().cpu_seconds()[_SERVER], cpu_seconds(self.redis_pid)

    def memory_bytes(self) -> int:
        return self._census().memory_bytes()[_SERVER]

    def _census(self) -> Census:
        return Census({_SERVER: list(self.arm.pids)})

    @contextlib.contextmanager
    def listening(self, user_ids: Sequence[int], acking: bool = False) -> Iterator[Listener]:
        tokens = [(user_id, self.arm.token(user_id)) for user_id in user_ids]
        how = Listening(self.arm.dialect, self.arm.socket_port, acking)
        with listening(self.directory, tokens, how) as listener:
            yield listener

    def warm(self, user_ids: Sequence[int]) -> None:
        """首次使用才做的事不算。"""
        with self.listening(user_ids[:_WARM]) as listener:
            listener.connected()
        time.sleep(self.plan.settle_s)


class _Meter:
    """从造它起，每件事用了多少微秒。"""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._server, self._redis = ring.cpu_s()

    def each_us(self, count: int) -> tuple[float, float]:
        server, redis = self._ring.cpu_s()
        per = 1e6 / max(1, count)
        return (server - self._server) * per, (redis - self._redis) * per


# ── 瞬时 ────────────────────────────────────────────────────────────────────


def transient(ring: Ring) -> Figures:
    """:raises BenchError: 有的没连上，或哪一步没有做成"""
    users = range(1, ring.plan.sockets + 1)
    ring.warm(users)
    before, meter = ring.memory_bytes(), _Meter(ring)
    with ring.listening(users) as listener:
        connected = listener.connected()
        server_us, redis_us = meter.each_us(connected.up)
        time.sleep(ring.plan.settle_s)
        figures = {
            "connects_per_s": connected.up / connected.seconds,
            "connect_cpu_us": server_us,
            "connect_redis_us": redis_us,
            "memory_per_socket": (ring.memory_bytes() - before) / connected.up,
            **_unicast(ring, listener, users),
            **_fanout(ring, listener),
        }
    time.sleep(ring.plan.settle_s)
    return figures | _storm(ring)


def _unicast(ring: Ring, listener: Listener, users: Sequence[int]) -> Figures:
    plan = ring.plan
    blocks = [ring.arm.publish(user_id, plan.frame_bytes) for user_id in users]

    def offer(rate: float) -> tuple[bool, int, int]:
        sent = ring.sender.publish(ring.redis_port, blocks, rate, plan.seconds)
        heard = listener.hear(sent.sent, _GRACE_S)
        held = heard.p95_ms < P95_MS and sent.late_ms < _LATE_MS
        return held and heard.messages == sent.sent, sent.sent, heard.messages

    listener.report()
    meter = _Meter(ring)
    held, sent, arrived = offer(plan.unicast_per_s)
    server_us, redis_us = meter.each_us(arrived)
    best = plan.unicast_per_s if held else 0.0
    for rate in plan.ladder if held else ():
        if not offer(rate)[0]:
            break
        best = rate
    return {
        "unicast_cpu_us": server_us,
        "unicast_redis_us": redis_us,
        "unicast_lost": sent - arrived,
        "unicast_best_per_s": best,
    }


def _fanout(ring: Ring, listener: Listener) -> Figures:
    plan = ring.plan
    block = [ring.arm.publish(None, plan.frame_bytes)]
    listener.report()
    meter, start = _Meter(ring), time.monotonic()
    sent = ring.sender.publish(ring.redis_port, block, plan.broadcasts_per_s, plan.seconds)
    heard = listener.hear(sent.sent * listener.up, _GRACE_S)
    server_us, _ = meter.each_us(heard.messages)
    return {
        "fanout_per_s": heard.messages / (time.monotonic() - start),
        "fanout_cpu_us": server_us,
        "fanout_lost": sent.sent * listener.up - heard.messages,
    }


def _storm(ring: Ring) -> Figures:
    with ring.listening(range(1, ring.plan.storm_sockets + 1)) as listener:
        listener.connected()
        time.sleep(ring.plan.settle_s)
        meter = _Meter(ring)
        back = listener.storm()
        server_us, redis_us = meter.each_us(back.up)
    return {
        "storm_per_s": back.up / back.seconds,
        "storm_cpu_us": server_us,
        "storm_redis_us": redis_us,
    }


# ── 耐久 ────────────────────────────────────────────────────────────────────


def durable(ring: Ring) -> Figures:
    """:raises BenchError: 有的没连上，有的没有被接受，或没有进记录"""
    plan = ring.plan
    users = ring.arm.accounts(plan.users)
    ring.warm(users)
    with ring.listening(users, acking=True) as listener:
        listener.connected()
        time.sleep(plan.settle_s)
        burst = partial(_post, ring, listener, users)
        burst("warm", Posting(1, _SINGLE_CONNECTIONS, 0, min(1.0, plan.seconds)))
        paced = Posting(1, _PACED_CONNECTIONS, plan.paced_per_s, plan.seconds)
        return {
            **burst("single", Posting(1, _SINGLE_CONNECTIONS, 0, plan.seconds)),
            **burst("paced", paced),
            **burst("batch", Posting(plan.batch, _BATCH_CONNECTIONS, 0, plan.seconds)),
        }


def _post(ring: Ring, listener: Listener, users: Sequence[int], name: str, how: Posting) -> Figures:
    blocks = ring.arm.posts(users, batched=how.batch > 1)
    listener.report()
    meter, start = _Meter(ring), time.monotonic()
    posted = ring.sender.post(ring.arm.target.port, blocks, how)
    heard = listener.hear(posted.accepted, _GRACE_S)
    if isinstance(ring.arm, Ours):
        asyncio.run(_recorded(ring, users))
    elapsed = time.monotonic() - start
    if posted.refused:
        raise BenchError(f"{ring.arm.name}: {posted.refused} requests were refused")
    server_us, redis_us = meter.each_us(heard.messages)
    return {
        f"{name}_per_s": heard.messages / elapsed,
        f"{name}_cpu_us": server_us,
        f"{name}_redis_us": redis_us,
        f"{name}_post_p50_ms": posted.p50_ms,
        f"{name}_p50_ms": heard.p50_ms,
        f"{name}_p95_ms": heard.p95_ms,
        f"{name}_p99_ms": heard.p99_ms,
        f"{name}_lost": posted.accepted - heard.messages,
    }


async def _recorded(ring: Ring, users: Sequence[int]) -> None:
    async with redis_probe(ring.arm.target) as probe:
        await probe.all_recorded(users, _RECORD_GRACE_S)


# ── 轮流 ────────────────────────────────────────────────────────────────────

_MEASURES: Final = {TRANSIENT: transient, DURABLE: durable}


def absent(program: str | None) -> list[str]:
    """为什么哪些行没有数字：没有编译器，没有给 Centrifugo。"""
    if compiler_missing():
        return [f"duel: no {COMPILER} here, so its client could not be built: not measured"]
    return [] if program else ["centrifugo: not measured; give its binary: --centrifugo PATH"]


def run_duel(
    plan: DuelPlan,
    program: str | None,
    parts: Sequence[str],
    steps: Steps,
    database_url: str | None = None,
) -> list[DuelRun]:
    """没有编译器就一轮也没有；没有 ``program`` 就只有我们。

    ``database_url``：我们记在哪里，各轮都在同一个库里；None 是每轮一个新的 SQLite。

    :raises BenchError: 哪一步没有做成
    """
    if compiler_missing() or not parts:
        return []
    allow_sockets(max(plan.sockets, plan.storm_sockets, plan.users))
    arms: dict[str, Start] = {OURS: partial(ours, database_url=database_url, split=plan.split)}
    if program is not None:
        arms[CENTRIFUGO] = partial(centrifugo, program=Path(program).resolve())
    runs = []
    with steps.showing():
        for turn in range(plan.rounds):
            for name in sorted(arms, reverse=bool(turn % 2)):
                figures: Figures = {}
                for part in parts:
                    with steps.step(f"{turn + 1}/{plan.rounds} {name}, {part}"):
                        figures |= _enter(arms[name], plan, part)
                runs.append(DuelRun(arm=name, figures=figures))
    return runs


def _enter(start: Start, plan: DuelPlan, part: str) -> Figures:
    port, is_durable = free_port(), part == DURABLE
    appending = ("--appendonly", "yes" if is_durable else "no", "--appendfsync", "everysec")
    redis = Path(plan.redis_server) if plan.redis_server else None
    with tempfile.TemporaryDirectory(prefix="mp-duel-") as name:
        directory = Path(name)
        build(directory)
        with (
            redis_running(directory, "--port", str(port), *appending, program=redis) as redis_pid,
            start(directory, f"redis://127.0.0.1:{port}", is_durable) as arm,
        ):
            sender = Sender(directory)
            return _MEASURES[part](Ring(arm, plan, directory, sender, port, redis_pid))
