"""Redis Cluster 的各个主：槽此刻归谁，到各主的连接（决定 0018）。

槽图不对了（MOVED、断线、CLUSTERDOWN）就去问，问得有节制；平时也隔几秒问一台：主挂着不答时，换了谁要由
别的说。不再是主的就离开，新来的就连上；谁也不必重启。
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from contextvars import Context
from itertools import count
from typing import Any, Final

from ..errors import MeetingPushError, RedisUnavailableError
from ..logs import RepeatedWarning, logger
from ..supervision import periodically, woken
from .address import Node, RedisAddress
from .command_link import EVERY
from .dial import SENTINEL_BACKOFF_S, Reconnector, abandon
from .lean import LeanConnection
from .link import Argument, Link
from .slot_map import ANSWER_S, SLOTS, SlotMap, find_slots, node_address, slot_of

#: 一切都好时隔这么久问一台；不好时、刚问过之后隔这么久。
IDLE_S: Final = 1.5
HURRY_S: Final = 0.25
#: 不再是主的，在途的再等这么久。
LEAVE_S: Final = 0.5

_unknown: Final = RepeatedWarning("cluster_slots_unknown")


class Master(LeanConnection):
    """到一个主的，同 ``LeanConnection``；``on_lost`` 在断线时调用（同步）。"""

    def __init__(
        self, address: RedisAddress, timeout_s: float, name: str, on_lost: Callable[[], None]
    ) -> None:
        super().__init__(address, timeout_s=timeout_s, name=name)
        self._reconnector = Reconnector(name, self._open, SENTINEL_BACKOFF_S)
        self._tell_lost = on_lost

    @property
    def node(self) -> Node:
        return self.address.host, self.address.port

    def send(self, commands: Sequence[Sequence[Argument]]) -> asyncio.Future[list[Any]]:
        """全部回答，是错误的也在各自的位置上。"""
        if self._link is None:
            raise self._not_connected()
        return self._link.send_batch(commands, EVERY)

    def _on_lost(self, link: Link) -> None:
        super()._on_lost(link)
        self._tell_lost()


#: 这个进程里的：一个知道主换了，别的也去问。
_everyone: Final[set[Masters]] = set()


class Masters:
    """``start`` 之后可用；每个槽的主由 ``owner`` 说。"""

    def __init__(self, address: RedisAddress, timeout_s: float, name: str) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._name = name
        self._map = SlotMap(())
        self._masters: dict[Node, Master] = {}
        #: 各个槽的。
        self._owners: list[Master | None] = [None] * SLOTS
        #: 槽图可能不对了：谁发现谁置位。
        self.stale = asyncio.Event()
        #: 槽归谁也许变了（同步，不得抛出）。
        self.watchers: list[Callable[[], None]] = []
        self._opening: dict[Node, asyncio.Task[Master]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._leaving: dict[Master, asyncio.Task[None]] = {}
        #: 已经离开的主的，与换来的主。
        self._past_reconnects = 0
        self._cause = "unreachable"

    # ── 生与死 ───────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """:raises ConfigurationError: 那里不是 Cluster，或不让进
        :raises RedisUnavailableError: 问不到，或有槽没有主
        """
        try:
            told = await find_slots(self._address, self._address.cluster, self._timeout_s)
            await self._take(told)
            self.every()
        except BaseException:
            await self.close()
            raise
        _everyone.add(self)
        self._watching = asyncio.create_task(
            self._watch(), name=f"cluster:{self._name}", context=Context()
        )

    async def close(self) -> None:
        _everyone.discard(self)
        watching, self._watching = self._watching, None
        tasks: list[asyncio.Task[Any]] = [*self._opening.values(), *self._leaving.values()]
        tasks += [watching] if watching is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        masters = [*self._masters.values(), *self._leaving]
        self._masters.clear()
        self._leaving.clear()
        self._owners = [None] * SLOTS
        for master in masters:
            await master.close()

    # ── 观察 ────────────────────────────────────────────────────────────────

    @property
    def connected(self) -> bool:
        """每个槽都有一个连着的主。"""
        return self._map.covered and all(
            node in self._masters and self._masters[node].connected for node in self._map.masters
        )

    @property
    def reconnects(self) -> int:
        """各主的；换了一个主也算。"""
        return self._past_reconnects + sum(one.reconnects for one in self._masters.values())

    def missing(self) -> RedisUnavailableError:
        """没有连着的，为什么。"""
        if not self._map.covered:
            return RedisUnavailableError("slots without a master", cause="cluster_down")
        return RedisUnavailableError("not connected to every master", cause=self._cause)

    # ── 哪一个 ───────────────────────────────────────────────────────────────

    def owner(self, slot: int) -> Master | None:
        """连着的。"""
        master = self._owners[slot]
        return master if master is not None and master.connected else None

    def anyone(self) -> Master | None:
        return next((one for one in self._masters.values() if one.connected), None)

    def every(self) -> dict[Node, Master]:
        """全部，次序不变。

        :raises RedisUnavailableError: 有一个不在
        """
        if not self.connected:
            self.stale.set()
            raise self.missing()
        return {node: self._masters[node] for node in self._map.masters}

    def one_each(self, name_of: Callable[[int], str]) -> list[str]:
        """``name_of`` 给的名字里，每个主管着的各一个（数从 0 起）；错误同 ``every``。"""
        self.every()
        # 照槽数：图上有而一个槽也没有的（刚搬空），永远等不到它的名字
        wanted = set(self._owners)
        if None in wanted:
            self.stale.set()
            raise self.missing()
        names: list[str] = []
        for name in map(name_of, count()):
            if (owner := self._owners[slot_of(name)]) in wanted:
                wanted.discard(owner)
                names.append(name)
            if not wanted:
                return names
        raise AssertionError("a master without slots")

    async def reach(self, node: Node) -> Master:
        """到这一台的，已连上过。

        :raises MeetingPushError: 连不上
        """
        if (master := self._masters.get(node)) is not None:
            return master
        opening = self._opening.get(node)
        if opening is None:
            opening = asyncio.create_task(self._open(node), context=Context())
            self._opening[node] = opening
            opening.add_done_callback(lambda _: self._opening.pop(node, None))
        return await asyncio.shield(opening)

    def moved(self, slot: int, master: Master) -> None:
        """有人被指去那里；图还要再问。"""
        self._owners[slot] = master
        self.stale.set()
        self._tell()

    def placed(self) -> list[Node | None]:
        """各个槽此刻归谁，连不连得上都算；没有主的是 None。"""
        nodes: list[Node | None] = [None] * SLOTS
        for low, high, node in self._map.ranges:
            nodes[low : high + 1] = [node] * (high - low + 1)
        for slot, owner in enumerate(self._owners):
            if owner is not None:
                nodes[slot] = owner.node
        return nodes

    def _tell(self) -> None:
        for watcher in list(self.watchers):
            watcher()

    # ── 槽图 ────────────────────────────────────────────────────────────────

    async def _watch(self) -> None:
        """关闭之前一直做：不对了就问，问得有节制。"""
        await periodically(self._look, self._pause)

    async def _pause(self) -> None:
        await asyncio.sleep(HURRY_S)
        await woken(self.stale, IDLE_S if self.connected else HURRY_S)

    async def _look(self) -> None:
        hurried = self.stale.is_set() or not self.connected
        self.stale.clear()
        try:
            await self._refresh(everyone=hurried)
        except MeetingPushError as error:
            self._cause = error.cause
            self.stale.set()
            _unknown.say(connection=self._name, cause=error.cause)
        except Exception as error:  # noqa: BLE001 — 它一死，换了主就再也不知道
            logger.bind(connection=self._name).opt(exception=error).error("cluster_refresh_failed")

    async def _refresh(self, *, everyone: bool) -> None:
        known = [*self._map.masters, *self._address.cluster]
        asked = known if everyone else [random.choice(known)]  # noqa: S311 — 轮着问
        told = await find_slots(self._address, asked, self._timeout_s)
        if told.epoch < self._map.epoch and not everyone:
            told = await find_slots(self._address, known, self._timeout_s)
        if told.epoch >= self._map.epoch or told.well:
            await self._take(told)

    async def _take(self, told: SlotMap) -> None:
        """按这张图：连上新的主，离开不再是主的。"""
        before, self._map = self._map, told
        await self._reach_all(told.masters)
        owners: list[Master | None] = [None] * SLOTS
        for low, high, node in told.ranges:
            owners[low : high + 1] = [self._masters.get(node)] * (high - low + 1)
        changed = told.ranges != before.ranges or owners != self._owners
        self._owners = owners
        for node in set(self._masters) - set(told.masters):
            self._part_from(self._masters.pop(node))
        if before.ranges and before.masters != told.masters:
            for other in _everyone:
                if other is not self and other._address == self._address:
                    other.stale.set()
            logger.bind(connection=self._name, masters=len(told.masters)).info(
                "cluster_masters_changed"
            )
        if changed:
            self._tell()

    async def _reach_all(self, nodes: Sequence[Node]) -> None:
        """连得上的都连上；一台挂着的不耽误别的。"""
        reaching = [self.reach(node) for node in nodes]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s if not self._masters else ANSWER_S):
                await asyncio.gather(*reaching, return_exceptions=True)

    async def _open(self, node: Node) -> Master:
        address = node_address(self._address, node)
        master = Master(address, self._timeout_s, self._name, self.stale.set)
        try:
            await master.connect()
        except MeetingPushError as error:
            self._cause = error.cause
            raise
        self._masters[node] = master
        self._place(node, master)
        if self._watching is not None:
            self._past_reconnects += 1
        return master

    def _place(self, node: Node, master: Master) -> None:
        """图早已是这样、它连上得晚：没有人管着的槽归它。"""
        placed = False
        for low, high, owner in self._map.ranges:
            if owner == node:
                for slot in range(low, high + 1):
                    if self._owners[slot] is None:
                        self._owners[slot], placed = master, True
        if placed:
            self._tell()

    def _part_from(self, master: Master) -> None:
        self._past_reconnects += master.reconnects
        self._leaving[master] = asyncio.create_task(self._leave(master), context=Context())

    async def _leave(self, master: Master) -> None:
        """在途的再等一小会儿：活着的会答，挂着的不会。"""
        await asyncio.sleep(LEAVE_S)
        await master.close()
        abandon(*master.node)  # 订阅的、取队列的也不必等自己发现
        self._leaving.pop(master, None)
