"""照计划制造故障；每一次的开始与恢复都写进历史。"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

from meeting_push.settings import Role

from ..tcp_proxy import TcpProxy
from .child import Child
from .history import Faulted, HistoryWriter, Recovered, now_ms
from .reading import Stored
from .schedule import Fault
from .town import Server, Town

T = TypeVar("T")

_VICTIMS: Final = {
    "kill_api": Role.API,
    "kill_gateway": Role.GATEWAY,
    "kill_worker": Role.WORKER,
}


class Injector:
    """``run`` 在最后一次故障恢复之后返回。不同的目标可以同时出事，同一个目标一次一种。"""

    def __init__(self, town: Town, stored: Stored, history: HistoryWriter) -> None:
        self._town = town
        self._stored = stored
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
                await self._kill(fault, self._town.redis)
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
                if child is self._town.redis:
                    await self._town.wait_ready()

    async def _pause(self, fault: Fault, child: Child) -> None:
        """停住再放开：醒来时它的条目可能已被别人认领，它的租约已过期。"""
        async with child.lock:
            self._began(fault, child.name)
            child.send(signal.SIGSTOP)
            await asyncio.sleep(fault.for_s)
            async with self._recovery(fault, child.name):
                child.send(signal.SIGCONT)
                await child.wait_ready()

    async def _disturb(self, fault: Fault, link: TcpProxy) -> None:
        async with self._links[link.name]:
            self._began(fault, link.name)
            await _ACTIONS[fault.kind](link, fault)
            async with self._recovery(fault, link.name):
                await _behind(self._town.servers, link).child.wait_ready()

    async def _kick(self, fault: Fault) -> None:
        """订阅者的输出缓冲满了，Redis 就这样对它。"""
        async with self._town.redis.lock:
            self._began(fault, self._town.redis.name)
            await self._stored.kick_subscribers()
            async with self._recovery(fault, self._town.redis.name):
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


def _behind(servers: Sequence[Server], link: TcpProxy) -> Server:
    return next(server for server in servers if link in (server.front, server.back))


async def _cut(link: TcpProxy, fault: Fault) -> None:
    link.cut()


async def _hang(link: TcpProxy, fault: Fault) -> None:
    link.hold(answers_only=fault.replies_only)
    await asyncio.sleep(fault.for_s)
    if fault.hard:
        link.cut()
    link.release()


async def _refuse(link: TcpProxy, fault: Fault) -> None:
    link.refuse()
    await asyncio.sleep(fault.for_s)
    link.release()


async def _half_open(link: TcpProxy, fault: Fault) -> None:
    link.swallow(answers_only=fault.replies_only)
    await asyncio.sleep(fault.for_s)
    link.release()


_ACTIONS: Final[dict[str, Callable[[TcpProxy, Fault], Awaitable[None]]]] = {
    "cut": _cut,
    "hang": _hang,
    "refuse": _refuse,
    "isolate": _refuse,
    "half_open": _half_open,
}
