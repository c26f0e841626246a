"""Sentinel 看着的一主几副本：真的进程，主没了由 Sentinel 换，谁是主只有它们知道。

Sentinel 去 Redis 也走各自门前的代理（``replicated_redis``）。Sentinel 说的端口到了各个服务器，
换成它自己的代理的（``_translation``）。
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from meeting_push.errors import MeetingPushError
from meeting_push.redis.address import RedisAddress
from meeting_push.redis.dial import leave_others
from meeting_push.redis.embedded import answers, find_server
from meeting_push.redis.sentinel import find_master

from ..tcp_proxy import TcpProxy
from .child import Child, free_port
from .history import HistoryWriter, Switched, now_ms
from .redis_side import PERSISTENCE, PROBE_TIMEOUT_S, Back
from .replicated_redis import (
    DOWN_AFTER_MS,
    POLL_S,
    Mend,
    Node,
    ReplicatedRedis,
    answered,
    ask,
    until,
)

SERVICE: Final = "chaos"
SENTINELS: Final = 3
FAILOVER_TIMEOUT_MS: Final = 5_000


class WatchedRedis(ReplicatedRedis):
    def __init__(self, directory: Path, history: HistoryWriter, replicas: int) -> None:
        super().__init__("")
        self._directory = directory
        self._history = history
        self._replicas = replicas
        self.nodes: list[Node] = []
        self.sentinels: list[Child] = []
        self._ports: list[int] = []
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        for number in range(1 + self._replicas):
            self.nodes.append(await self._node(number))
            await self.nodes[-1].child.start()
        for number in range(SENTINELS):
            self.sentinels.append(self._sentinel(number))
            await self.sentinels[-1].start()
        self.url = f"redis+sentinel://{_hosts(self._ports)}/{SERVICE}/0"
        await self.whole()
        await until(self._acquainted, "the Sentinels did not find each other")
        self._watching = asyncio.create_task(self._watch(), name="chaos:watch")

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        for child in (*self.sentinels, *(node.child for node in self.nodes)):
            await child.stop()
        for node in self.nodes:
            await node.door.close()

    async def back(self, name: str) -> Back:
        own = [await TcpProxy(node.port, name).start() for node in self.nodes]
        doors = [node.door.port for node in self.nodes]
        translate = _translation(dict(zip(doors, (one.port for one in own), strict=True)))
        asked = [await TcpProxy(port, name, rewrite=translate).start() for port in self._ports]
        url = f"redis+sentinel://{_hosts([one.port for one in asked])}/{SERVICE}/0"
        return Back(f"{name}→redis", url, [*own, *asked])

    # ── 谁是主 ───────────────────────────────────────────────────────────────

    async def master(self, pick: int) -> Node:
        """只有一个。"""
        found: list[Node] = []

        async def known() -> bool:
            with contextlib.suppress(MeetingPushError):
                found.append(self._behind(await self._named()))
            return bool(found)

        await until(known, "no Sentinel knows a master")
        return found[0]

    async def replaced(self, old: Node) -> None:
        async def another() -> bool:
            with contextlib.suppress(MeetingPushError):
                return self._behind(await self._named()) is not old
            return False

        await until(another, f"{old.child.name} was not replaced")

    async def whole(self) -> None:
        async def in_sync() -> bool:
            with contextlib.suppress(MeetingPushError):
                master = self._behind(await self._named())
                role, _, replicas = await ask(master.port, "ROLE")
                info = await ask(master.port, "INFO", "replication")
                online = info.count(b"state=online")
                return bool(role == b"master" and len(replicas) == online == self._replicas)
            return False

        await until(in_sync, "the replicas do not follow the master")

    async def copies(self, master: Node) -> list[Node]:
        return [node for node in self.nodes if node is not master]

    async def holds(self, master: Node) -> Callable[[str], bool]:
        return lambda key: True

    async def part(self, master: Node, for_s: float) -> Mend:
        """Sentinel 也看不见它：不久就换。"""
        master.door.refuse()
        return partial(_released, master)

    async def fail_over(self, master: Node, *, hard: bool) -> None:
        """请 Sentinel 换；它总是等副本跟上。"""
        for port in self._ports:
            with contextlib.suppress(MeetingPushError):
                await ask(port, "SENTINEL", "FAILOVER", SERVICE)
                return

    async def _named(self) -> int:
        return (await find_master(RedisAddress.parse(self.url), PROBE_TIMEOUT_S)).port

    def _behind(self, door: int) -> Node:
        return next(node for node in self.nodes if node.door.port == door)

    async def _watch(self) -> None:
        """换了主就记下，也放开旁观者还连着旧的主的连接：它已不是真话。"""
        address = RedisAddress.parse(self.url)
        known = await answered(self._named, "no Sentinel knows a master")
        while True:
            await asyncio.sleep(POLL_S)
            with contextlib.suppress(MeetingPushError):
                named = await self._named()
                if named != known:
                    known = named
                    leave_others(address, "127.0.0.1", named)
                    to = self._behind(named).child.name
                    self._history.write(Switched(at=now_ms(), to=to))

    async def _acquainted(self) -> bool:
        counts = []
        for port in self._ports:
            with contextlib.suppress(MeetingPushError):
                flat = await ask(port, "SENTINEL", "MASTER", SERVICE)
                state = dict(zip(flat[::2], flat[1::2], strict=True))
                counts.append((int(state[b"num-slaves"]), int(state[b"num-other-sentinels"])))
        return counts == [(self._replicas, SENTINELS - 1)] * SENTINELS

    # ── 进程 ────────────────────────────────────────────────────────────────

    async def _node(self, number: int) -> Node:
        """设置写在文件里：Sentinel 换主时让它们改写的，重启之后还在。"""
        name, port = f"redis-{number}", free_port()
        door = await TcpProxy(port, f"{name}-door").start()
        folder = self._directory / name
        folder.mkdir()
        lines = [
            *(f"port {port}", "bind 127.0.0.1", f"dir {folder}", 'save ""'),
            *("repl-diskless-sync-delay 0", "repl-ping-replica-period 1"),
            *("replica-announce-ip 127.0.0.1", f"replica-announce-port {door.port}"),
        ]
        if self.nodes:
            lines.append(f"replicaof 127.0.0.1 {self.nodes[0].door.port}")
        config = _written(folder / "redis.conf", lines)
        command = [str(find_server().path), str(config), *PERSISTENCE]
        url = f"redis://127.0.0.1:{port}/0"

        async def ready() -> bool:
            return await answers(url, timeout_s=PROBE_TIMEOUT_S, name="chaos-probe")

        return Node(Child(name, command, self._directory, ready, self._history), port, door)

    def _sentinel(self, number: int) -> Child:
        name, port = f"sentinel-{number}", free_port()
        self._ports.append(port)
        folder = self._directory / name
        folder.mkdir()
        lines = [
            *(f"port {port}", "bind 127.0.0.1", f"dir {folder}"),
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.nodes[0].door.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT_MS}",
            f"sentinel parallel-syncs {SERVICE} {self._replicas}",
        ]
        config = _written(folder / "sentinel.conf", lines)
        command = [str(find_server().path), str(config), "--sentinel"]

        async def ready() -> bool:
            with contextlib.suppress(MeetingPushError):
                return bool(await ask(port, "PING") == b"PONG")
            return False

        return Child(name, command, self._directory, ready, self._history)


async def _released(node: Node) -> None:
    node.door.release()


def _written(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def _hosts(ports: Sequence[int]) -> str:
    return ",".join(f"127.0.0.1:{port}" for port in ports)


def _translation(ports: Mapping[int, int]) -> Callable[[bytes], bytes]:
    """端口都是五位数：换了不改长短。"""
    pairs = [(b"%d" % there, b"%d" % here) for there, here in ports.items()]
    assert all(len(there) == len(here) for there, here in pairs)

    def translate(data: bytes) -> bytes:
        for there, here in pairs:
            data = data.replace(there, here)
        return data

    return translate
