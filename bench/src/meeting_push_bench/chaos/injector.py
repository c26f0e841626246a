"""照计划制造故障；每一次的开始与恢复都写进历史。"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

from meeting_push.settings import Role

from .child import Child
from .clustered_redis import ClusteredRedis
from .history import Faulted, HistoryWriter, Recovered, now_ms
from .reading import Stored
from .redis_side import REDIS, AloneRedis, Line
from .replicated_redis import Mend, Node, ReplicatedRedis
from .schedule import Fault
from .town import Server, Town
from .watched_redis import WatchedRedis
from .witness import Witness

T = TypeVar("T")

_VICTIMS: Final = {
    "kill_api": Role.API,
    "kill_gateway": Role.GATEWAY,
    "kill_worker": Role.WORKER,
}


#: 一次搬这么多个槽。
MOVED_SLOTS: Final = 40


class Injector:
    """``run`` 在最后一次故障恢复之后返回。不同的目标可以同时出事，同一个目标一次一种。"""

    def __init__(
        self, town: Town, stored: Stored, users: Sequence[int], history: HistoryWriter
    ) -> None:
        self._town = town
        self._stored = stored
        self._seq_keys = {user_id: stored.seq_key(user_id) for user_id in users}
        self._history = history
        self._links = {link.name: asyncio.Lock() for link in town.links}

    async def run(self, faults: Sequence[Fault]) -> None:
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(max(0, start + fault.at_s - time.monotonic()))
                group.create_task(self._inject(fault), name=f"fault:{fault.kind}")

    async def _inject(self, fault: Fault) -> None:
        match fault.kind:
            case "kill_api" | "kill_gateway" | "kill_worker":
                role = _VICTIMS[fault.kind]
                victims = [server for server in self._town.servers if server.role is role]
                await self._kill(fault, _pick(victims, fault).child)
            case "restart_redis":
                await self._restart_redis(fault)
            case "kill_master" | "hang_master" | "part_master" | "fail_over":
                await self._replace_master(fault)
            case "kill_sentinel":
                await self._kill(fault, _pick(self._watched.sentinels, fault))
            case "move_slots":
                await self._move_slots(fault)
            case "pause":
                await self._pause(fault, _pick(self._town.servers, fault).child)
            case "cut" | "hang" | "refuse":
                await self._disturb(fault, _pick(self._town.links, fault))
            case "isolate" | "half_open":
                await self._disturb(fault, _pick(self._town.gateways, fault).back)
            case "kick_subscribers":
                await self._kick(fault)

    async def _kill(self, fault: Fault, child: Child) -> None:
        async with child.lock:
            self._began(fault, child.name)
            await child.kill()
            await asyncio.sleep(fault.for_s)
            async with self._recovery(fault, child.name):
                await child.start()

    async def _restart_redis(self, fault: Fault) -> None:
        redis = self._town.redis
        assert isinstance(redis, AloneRedis), "only this deck has it"
        async with redis.lock:
            self._began(fault, REDIS)
            await redis.child.kill()
            await asyncio.sleep(fault.for_s)
            async with self._recovery(fault, REDIS):
                await redis.child.start()
                await self._town.wait_ready()

    @property
    def _watched(self) -> WatchedRedis:
        assert isinstance(self._town.redis, WatchedRedis), "only this deck has it"
        return self._town.redis

    async def _replace_master(self, fault: Fault) -> None:
        """主没了（或只是别的 Redis 看不见它），等到换成别的，旧的回来做副本，都跟上了。"""
        redis = self._town.redis
        assert isinstance(redis, ReplicatedRedis), "only these decks have it"
        async with redis.lock:
            master = await redis.master(fault.target)
            witness = await Witness.of(redis, master, self._seq_keys)
            self._began(fault, REDIS)
            mend = await _lose(redis, fault, master)
            if fault.kind != "fail_over":  # 它还好好的：副本一直跟到换的那一刻
                await witness.look()
            await redis.replaced(master)
            await witness.write(self._history)
            async with self._recovery(fault, REDIS):
                await mend()
                await self._town.wait_ready()
            await redis.whole()

    async def _move_slots(self, fault: Fault) -> None:
        redis = self._town.redis
        assert isinstance(redis, ClusteredRedis), "only this deck has it"
        async with redis.lock:
            self._began(fault, REDIS)
            await redis.move_slots(fault.target, MOVED_SLOTS, fault.for_s)
            async with self._recovery(fault, REDIS):
                await self._town.wait_ready()
            await redis.whole()

    async def _pause(self, fault: Fault, child: Child) -> None:
        """停住再放开：醒来时它的条目可能已被别人认领，它的租约已过期。"""
        async with child.lock:
            self._began(fault, child.name)
            child.send(signal.SIGSTOP)
            await asyncio.sleep(fault.for_s)
            async with self._recovery(fault, child.name):
                child.send(signal.SIGCONT)
                await child.wait_ready()

    async def _disturb(self, fault: Fault, link: Line) -> None:
        async with self._links[link.name]:
            self._began(fault, link.name)
            await _ACTIONS[fault.kind](link, fault)
            async with self._recovery(fault, link.name):
                await _behind(self._town.servers, link).child.wait_ready()

    async def _kick(self, fault: Fault) -> None:
        """订阅者的输出缓冲满了，Redis 就这样对它。"""
        async with self._town.redis.lock:
            self._began(fault, REDIS)
            await self._stored.kick_subscribers()
            async with self._recovery(fault, REDIS):
                await self._town.wait_ready()

    def _began(self, fault: Fault, target: str) -> None:
        self._history.write(
            Faulted(at=now_ms(), kind=fault.kind, target=target, for_s=round(fault.for_s, 3))
        )

    @contextlib.asynccontextmanager
    async def _recovery(self, fault: Fault, target: str) -> AsyncIterator[None]:
        start = time.monotonic()
        yield
        after_ms = int((time.monotonic() - start) * 1000)
        self._history.write(
            Recovered(at=now_ms(), kind=fault.kind, target=target, after_ms=after_ms)
        )


def _pick(candidates: Sequence[T], fault: Fault) -> T:
    return candidates[fault.target % len(candidates)]


async def _lose(redis: ReplicatedRedis, fault: Fault, master: Node) -> Mend:
    """返回怎样让它回来。"""
    match fault.kind:
        case "kill_master":
            await master.child.kill()
            return master.child.start
        case "hang_master":
            return await redis.hang(master)
        case "part_master":
            return await redis.part(master, fault.for_s)
        case _:
            await redis.give_way(master, hard=fault.hard)
            return _nothing


async def _nothing() -> None:
    """它还好好的。"""


def _behind(servers: Sequence[Server], link: Line) -> Server:
    return next(server for server in servers if link in (server.front, server.back))


async def _cut(link: Line, fault: Fault) -> None:
    link.cut()


async def _hang(link: Line, fault: Fault) -> None:
    link.hold(answers_only=fault.replies_only)
    await asyncio.sleep(fault.for_s)
    if fault.hard:
        link.cut()
    link.release()


async def _refuse(link: Line, fault: Fault) -> None:
    link.refuse()
    await asyncio.sleep(fault.for_s)
    link.release()


async def _half_open(link: Line, fault: Fault) -> None:
    link.swallow(answers_only=fault.replies_only)
    await asyncio.sleep(fault.for_s)
    link.release()


_ACTIONS: Final[dict[str, Callable[[Line, Fault], Awaitable[None]]]] = {
    "cut": _cut,
    "hang": _hang,
    "refuse": _refuse,
    "isolate": _refuse,
    "half_open": _half_open,
}
