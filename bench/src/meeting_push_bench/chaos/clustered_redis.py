"""几个主、各有副本的 Redis Cluster：真的进程，主没了由它们自己换，槽也在它们之间搬。

一台报出的是它门前的代理（``replicated_redis``）；到了各个服务器（``CLUSTER SLOTS``、MOVED、ASK），
换成那个服务器自己的代理的：换漏了一处（恰被切成两段）也只是走了门，照样到得了。
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from meeting_push.errors import MeetingPushError
from meeting_push.redis.address import RedisAddress
from meeting_push.redis.embedded import answers, find_server
from meeting_push.redis.slot_map import SLOTS, SlotMap, find_slots, slot_of

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
    ask_many,
    until,
)

_HOST: Final = "127.0.0.1"
_WATCH_S: Final = 0.25
#: 一条 MIGRATE 带几个键。
_KEYS: Final = 100
_MIGRATE_MS: Final = 5_000
#: 写了这么多才算丢得出东西；至多再看这么多次，没有人在写就算了。
LOST_BYTES: Final = 200_000
_PATIENCE: Final = 600
_TOLD: Final = re.compile(rb"127\.0\.0\.1(:|\r\n:)(\d{5})")


class ClusteredRedis(ReplicatedRedis):
    def __init__(
        self, directory: Path, history: HistoryWriter, masters: int, replicas: int
    ) -> None:
        super().__init__("")
        self._directory = directory
        self._history = history
        self._masters = masters
        self._replicas = replicas
        self.nodes: list[Node] = []
        self._ids: dict[str, Node] = {}
        self._buses: list[int] = []
        self._watching: asyncio.Task[None] | None = None

    # ── 生与死 ───────────────────────────────────────────────────────────────

    async def start(self) -> None:
        for number in range(self._masters * (1 + self._replicas)):
            self.nodes.append(await self._node(number))
            await self.nodes[-1].child.start()
        self.url = f"redis+cluster://{_hosts(node.door.port for node in self.nodes)}"
        await self._share_slots()
        await self._introduce()
        await self._attach_replicas()
        await self.whole()
        self._watching = asyncio.create_task(self._watch(), name="chaos:watch")

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        for node in self.nodes:
            await node.child.stop()
        for node in self.nodes:
            await node.door.close()

    async def back(self, name: str) -> Back:
        ports: dict[bytes, bytes] = {}
        translate = _translation(ports)
        own = [await TcpProxy(node.port, name, rewrite=translate).start() for node in self.nodes]
        for node, proxy in zip(self.nodes, own, strict=True):
            ports[b"%d" % node.door.port] = b"%d" % proxy.port
        url = f"redis+cluster://{_hosts(proxy.port for proxy in own)}"
        return Back(f"{name}→redis", url, own)

    async def _node(self, number: int) -> Node:
        name, port = f"redis-{number}", free_port()
        self._buses.append(free_port())
        door = await TcpProxy(port, f"{name}-door").start()
        folder = self._directory / name
        folder.mkdir()
        command = [
            str(find_server().path),
            *("--port", str(port), "--bind", _HOST, "--dir", str(folder)),
            *("--cluster-enabled", "yes", "--cluster-port", str(self._buses[-1])),
            *("--cluster-announce-ip", _HOST, "--cluster-announce-port", str(door.port)),
            *("--cluster-node-timeout", str(DOWN_AFTER_MS)),
            *("--cluster-replica-validity-factor", "0"),
            *("--cluster-allow-replica-migration", "no"),
            *("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"),
            *PERSISTENCE,
        ]

        async def ready() -> bool:
            url = f"redis://{_HOST}:{port}/0"
            return await answers(url, timeout_s=PROBE_TIMEOUT_S, name="chaos-probe")

        return Node(Child(name, command, self._directory, ready, self._history), port, door)

    async def _share_slots(self) -> None:
        for number, node in enumerate(self.nodes[: self._masters]):
            low, high = (SLOTS * each // self._masters for each in (number, number + 1))
            await ask(node.port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            await ask(node.port, "CLUSTER", "ADDSLOTSRANGE", low, high - 1)

    async def _introduce(self) -> None:
        """两两都介绍：不等它们自己传开。"""
        for node in self.nodes:
            self._ids[(await ask(node.port, "CLUSTER", "MYID")).decode()] = node
            others = [pair for pair in zip(self.nodes, self._buses, strict=True) if pair[0] != node]
            for other, bus in others:
                await ask(node.port, "CLUSTER", "MEET", _HOST, other.door.port, bus)
        await until(self._acquainted, "the nodes did not find each other")

    async def _acquainted(self) -> bool:
        return all([(await _seen(node)).keys() == self._ids.keys() for node in self.nodes])

    async def _attach_replicas(self) -> None:
        ids = list(self._ids)
        for number, node in enumerate(self.nodes[self._masters :]):
            await ask(node.port, "CLUSTER", "REPLICATE", ids[number % self._masters])

    # ── 谁是主 ───────────────────────────────────────────────────────────────

    async def master(self, pick: int) -> Node:
        masters = await self._all_masters()
        return masters[pick % len(masters)]

    async def replaced(self, old: Node) -> None:
        async def gone() -> bool:
            with contextlib.suppress(MeetingPushError):
                told = await self._slots(besides=old)
                return told.well and (_HOST, old.door.port) not in told.masters
            return False

        await until(gone, f"{old.child.name} was not replaced")

    async def whole(self) -> None:
        """每一台都说好，槽归谁说得一样，副本都跟上了。"""

        async def in_sync() -> bool:
            with contextlib.suppress(MeetingPushError):
                return await self._agree()
            return False

        await until(in_sync, "the Cluster is not whole")

    async def _agree(self) -> bool:
        maps = []
        for node in self.nodes:
            info, slots, replication = await ask_many(
                node.port, [("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"), ("INFO", "replication")]
            )
            maps.append(SlotMap.of(_HOST, info, slots))
            owns = (_HOST, node.door.port) in maps[-1].masters
            lines = replication.decode().splitlines()
            if owns != ("role:master" in lines):
                return False
            up = replication.count(b"state=online") == self._replicas
            if not (up if owns else "master_link_status:up" in lines):
                return False
        return all(one.well and one.ranges == maps[0].ranges for one in maps)

    async def fail_over(self, master: Node, *, hard: bool) -> None:
        """副本来要；``hard``：不等主停下写入、自己追上。"""
        replica = (await self.copies(master))[0]
        with contextlib.suppress(MeetingPushError):
            await ask(replica.port, "CLUSTER", "FAILOVER", *(("FORCE",) if hard else ()))

    async def part(self, master: Node, for_s: float) -> Mend:
        """副本收不到它的了，服务器照样往里写；真的写了一些，它才死掉：提升的就缺这一段。"""
        master.door.refuse()
        offset = partial(answered, partial(_offset, master), f"{master.child.name} says nothing")
        start = await offset()
        await asyncio.sleep(for_s)
        for _ in range(_PATIENCE):
            if await offset() - start >= LOST_BYTES:
                break
            await asyncio.sleep(POLL_S)
        await master.child.kill()

        async def back() -> None:
            master.door.release()
            await master.child.start()

        return back

    async def copies(self, master: Node) -> list[Node]:
        ours = self._id(master)
        found: list[Node] = []

        async def known() -> bool:
            with contextlib.suppress(MeetingPushError):
                lines = (await _seen(master)).items()
                found.extend(self._ids[each] for each, line in lines if line[3] == ours)
            return bool(found)

        await until(known, f"{master.child.name} has no replica")
        return found

    async def holds(self, master: Node) -> Callable[[str], bool]:
        at, ours = (_HOST, master.door.port), list[tuple[int, int]]()

        async def told() -> bool:
            with contextlib.suppress(MeetingPushError):
                ranges = (await self._slots()).ranges
                ours.extend((low, high) for low, high, node in ranges if node == at)
            return bool(ours)

        await until(told, f"{master.child.name} has no slots")
        return lambda key: any(low <= slot_of(key) <= high for low, high in ours)

    async def _all_masters(self) -> list[Node]:
        found: list[Node] = []

        async def known() -> bool:
            with contextlib.suppress(MeetingPushError):
                told = await self._slots()
                if told.well:
                    found.extend(n for n in self.nodes if (_HOST, n.door.port) in told.masters)
            return bool(found)

        await until(known, "the Cluster knows no master")
        return found

    async def _slots(self, besides: Node | None = None) -> SlotMap:
        asked = [(_HOST, node.port) for node in self.nodes if node is not besides]
        return await find_slots(RedisAddress.parse(self.url), asked, PROBE_TIMEOUT_S)

    async def _watch(self) -> None:
        """谁成了主就记下。"""
        known = set((await answered(self._slots, "the Cluster knows no master")).masters)
        while True:
            await asyncio.sleep(_WATCH_S)
            with contextlib.suppress(MeetingPushError):
                masters = set((await self._slots()).masters)
                for door in masters - known:
                    self._history.write(Switched(at=now_ms(), to=self._at(door).child.name))
                known = masters

    # ── 槽 ──────────────────────────────────────────────────────────────────

    async def move_slots(self, pick: int, count: int, for_s: float) -> None:
        """一个主的 ``count`` 个有东西的槽搬给另一个，如 ``redis-cli --cluster reshard``。

        一半是东西最多的（各人的、队列的都在里面），一半随便；共花 ``for_s`` 以上。
        """
        masters = await self._all_masters()
        source = masters[pick % len(masters)]
        to = masters[(pick + 1 + pick // len(masters) % (len(masters) - 1)) % len(masters)]
        busy = partial(self._busy, source, count, random.Random(pick))
        for slot in await answered(busy, f"{source.child.name} does not say what it has"):
            await until(partial(self._moved, slot, to), f"slot {slot} does not move")
            await asyncio.sleep(for_s / count)

    async def _busy(self, source: Node, count: int, rng: random.Random) -> list[int]:
        told = await self._slots()
        at = (_HOST, source.door.port)
        ours = [s for low, high, node in told.ranges if node == at for s in range(low, high + 1)]
        sizes = await ask_many(source.port, [("CLUSTER", "COUNTKEYSINSLOT", s) for s in ours])
        filled = sorted(((-size, slot) for size, slot in zip(sizes, ours, strict=True) if size))
        slots = [slot for _, slot in filled]
        most, rest = slots[: count // 2], slots[count // 2 :]
        return most + rng.sample(rest, min(count - len(most), len(rest)))

    async def _moved(self, slot: int, to: Node) -> bool:
        """一步没有做成（副本恰好跟不上，恰好换了主）就从头再来：每一步都可以重做。"""
        with contextlib.suppress(MeetingPushError):
            told = await self._slots()
            owners = [n for low, high, n in told.ranges if low <= slot <= high]
            if not owners:
                return False  # 正换着主
            there = await self._master_now(to)
            await self._move(slot, self._at(owners[0]), there)
            return True
        return False

    async def _move(self, slot: int, source: Node, to: Node) -> None:
        """:raises MeetingPushError: 有一台不答、不收"""
        if source is not to:
            await ask(to.port, "CLUSTER", "SETSLOT", slot, "IMPORTING", self._id(source))
            await ask(source.port, "CLUSTER", "SETSLOT", slot, "MIGRATING", self._id(to))
            while keys := await ask(source.port, "CLUSTER", "GETKEYSINSLOT", slot, _KEYS):
                where = (_HOST, to.port, "", 0, _MIGRATE_MS)
                await ask(source.port, "MIGRATE", *where, "KEYS", *keys)
        masters = [self._at(each) for each in (await self._slots()).masters]
        for node in (to, *(each for each in masters if each is not to)):
            await ask(node.port, "CLUSTER", "SETSLOT", slot, "NODE", self._id(to))

    async def _master_now(self, node: Node) -> Node:
        """它，或它如今跟着的。"""
        line = (await _seen(node))[self._id(node)]
        return self._ids.get(line[3], node)

    def _id(self, node: Node) -> str:
        return next(each for each, one in self._ids.items() if one is node)

    def _at(self, door: tuple[str, int]) -> Node:
        return next(node for node in self.nodes if node.door.port == door[1])


async def _offset(node: Node) -> int:
    """它写给副本的，到第几个字节了。"""
    info = (await ask(node.port, "INFO", "replication")).decode()
    return int(info.partition("master_repl_offset:")[2].split()[0])


async def _seen(node: Node) -> dict[str, list[str]]:
    """它眼里的各台：id → ``CLUSTER NODES`` 的一行。"""
    text: Any = await ask(node.port, "CLUSTER", "NODES")
    return {line.split(" ")[0]: line.split(" ") for line in text.decode().splitlines()}


def _hosts(ports: Any) -> str:
    return ",".join(f"{_HOST}:{port}" for port in ports)


def _translation(ports: Mapping[bytes, bytes]) -> Callable[[bytes], bytes]:
    """都是五位数：换了不改长短。"""

    def translated(told: re.Match[bytes]) -> bytes:
        return b"127.0.0.1" + told[1] + ports.get(told[2], told[2])

    def translate(data: bytes) -> bytes:
        return _TOLD.sub(translated, data) if b"127.0.0.1" in data else data

    return translate
