"""本节点的在线账：边缘往这里记，写入循环从这里取。只在内存里，没有 I/O。"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from msgspec.structs import replace

from ..model import ConnectionInfo, FailureCause, PresenceStatus
from ..node_identity import NodeIdentity
from ..redis.presence import Change, ConnectionKey

#: 一个节点每秒至多把这么多次心跳写进 Redis：3,000 条连接以内（30 秒一次）每次都写，
#: 再多就轮流写。在不在线由租约与本节点的超时决定，不靠它；它只是给人看的时刻。
BEATS_PER_S: Final = 100
#: 一条连接至少这么久写一次（心跳还在的话），它在 Redis 里的键才活得下去。
REFRESH_MS: Final = 300_000
#: 轮流的相位：心跳同时开始的连接，写入也错开。
PHASES: Final = 2**20


class _Entry:
    """一条活着的连接；``beat`` 是最后心跳，``info`` 里的那个只在写出时才跟上。"""

    __slots__ = ("beat", "info", "phase", "written_at")

    def __init__(self, info: ConnectionInfo) -> None:
        self.info = info
        self.beat = info.last_heartbeat
        self.phase = hash(info.connection_id) % PHASES
        self.written_at = 0


class PresenceLedger:
    """实现 ``contracts.PresenceSink``：活着的、待写的、可能已在 Redis 里的；量以连接数为界。"""

    def __init__(self, node: NodeIdentity, heartbeat_interval_ms: int) -> None:
        self._node = node
        self._interval_ms = heartbeat_interval_ms
        self._live: dict[ConnectionKey, _Entry] = {}
        #: 待写的连接（有序集合）；写什么由取出的那一刻 ``_live`` 里有没有它决定。
        self._dirty: dict[ConnectionKey, None] = {}
        #: 可能已在 Redis 里的连接：从未写入的关闭时不必去删，断线再久也只积压这么多。
        self._written: set[ConnectionKey] = set()
        #: 待移走的里，怎样没有的说明了什么的。
        self._left: dict[ConnectionKey, FailureCause] = {}
        #: 有了待写的。
        self.wake = asyncio.Event()
        self.beats = 0
        self.beats_written = 0
        self._came: set[int] = set()

    # ── 记 ──────────────────────────────────────────────────────────────────

    def connection_opened(self, user_id: int, info: ConnectionInfo) -> None:
        if info.node != self._node.id:  # 谁登记的归谁：死后才有人收拾
            info = replace(info, node=self._node.id)
        connection = (user_id, info.connection_id)
        self._live[connection] = _Entry(info)
        self._came.add(user_id)
        self.mark((connection,))

    def connection_closed(
        self, user_id: int, connection_id: str, left: FailureCause | None = None
    ) -> None:
        connection = (user_id, connection_id)
        self._live.pop(connection, None)
        if connection in self._written:
            if left is not None:
                self._left[connection] = left
            self.mark((connection,))
        else:
            self._dirty.pop(connection, None)

    def heartbeat(self, user_id: int, connection_id: str, now: int) -> None:
        entry = self._live.get((user_id, connection_id))
        if entry is None:
            return
        self.beats += 1
        entry.beat = now
        if self._is_due(entry, now):
            self.beats_written += 1
            self.mark(((user_id, connection_id),))

    def status_changed(
        self,
        user_id: int,
        connection_id: str,
        status: PresenceStatus,
        device_info: str | None,
    ) -> None:
        entry = self._live.get((user_id, connection_id))
        if entry is not None:
            device = entry.info.device_info if device_info is None else device_info
            entry.info = replace(entry.info, status=status, device_info=device)
            self.mark(((user_id, connection_id),))

    def take_came(self) -> set[int]:
        """上次取走之后来过的人。"""
        came, self._came = self._came, set()
        return came

    def expel(self, connections: Iterable[ConnectionKey]) -> None:
        """这些无论如何都要从 Redis 移走，即使不是本节点写的。"""
        for connection in connections:
            self._written.add(connection)
            self.connection_closed(*connection)

    def mark(self, connections: Iterable[ConnectionKey]) -> None:
        self._dirty.update(dict.fromkeys(connections))
        self.wake.set()

    def mark_all(self) -> None:
        """Redis 可能丢了东西：全部再写一遍。"""
        self.mark(self._live)

    def abandon(self) -> None:
        """不再持有任何连接；Redis 里的由收拾节点的人移走。"""
        for kept in (self._live, self._dirty, self._written, self._left):
            kept.clear()

    def _is_due(self, entry: _Entry, now: int) -> bool:
        spacing = min(REFRESH_MS, len(self._live) * 1000 // BEATS_PER_S)
        if spacing <= self._interval_ms:
            return True
        phase = entry.phase
        return (now + phase) // spacing != (entry.written_at + phase) // spacing

    # ── 写 ──────────────────────────────────────────────────────────────────

    def take(self, limit: int, now: int) -> list[Change]:
        """取出一批待写的；写完交给 ``settle``，没写成交给 ``put_back``。"""
        changes = [self._change(each, now) for each in list(islice(self._dirty, limit))]
        for user_id, connection_id, info in changes:
            del self._dirty[user_id, connection_id]
            if isinstance(info, ConnectionInfo):
                self._written.add((user_id, connection_id))
        return changes

    def _change(self, connection: ConnectionKey, now: int) -> Change:
        entry = self._live.get(connection)
        if entry is None:
            return (*connection, self._left.get(connection))
        entry.written_at = now
        if entry.info.last_heartbeat != entry.beat:
            entry.info = replace(entry.info, last_heartbeat=entry.beat)
        return (*connection, entry.info)

    def settle(self, changes: Iterable[Change]) -> None:
        for user_id, connection_id, info in changes:
            if not isinstance(info, ConnectionInfo):
                self._written.discard((user_id, connection_id))
                self._left.pop((user_id, connection_id), None)

    def put_back(self, changes: Iterable[Change]) -> None:
        self.mark((user_id, connection_id) for user_id, connection_id, _ in changes)

    # ── 看 ──────────────────────────────────────────────────────────────────

    def live_chunks(self, size: int) -> Iterator[list[ConnectionKey]]:
        """此刻活着的连接，一块一块；取下一块时已走的、正待写的不在其中。"""
        everything = iter(list(self._live))
        while chunk := list(islice(everything, size)):
            yield [each for each in chunk if self.is_settled(each)]

    def is_settled(self, connection: ConnectionKey) -> bool:
        """活着，而且没有待写的：Redis 里应当有它。"""
        return connection in self._live and connection not in self._dirty

    def is_unknown(self, connection: ConnectionKey) -> bool:
        """既不活着，也没有待写或在途的移走：Redis 里不应有它。"""
        return connection not in self._live and connection not in self._written

    @property
    def connections(self) -> int:
        return len(self._live)

    @property
    def pending(self) -> int:
        return len(self._dirty)

    @property
    def written(self) -> int:
        return len(self._written)
