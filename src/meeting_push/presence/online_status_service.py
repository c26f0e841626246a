"""在线状态：谁在哪个节点上有几条连接。

边缘只往内存里记账（``ledger``）；一个循环每 ``presence_flush_ms`` 成批写入 Redis，
同一条连接在一批里的多次变化合成一次。死节点留下的由先到者移走（CON-2）；
内存里的连接与 Redis 里记在本节点名下的，定期两边核对。
Redis 断开时照常记账，恢复后把本节点的全部重写一遍。
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..clock import Clock, now_ms
from ..errors import MeetingPushError, RedisUnavailableError
from ..logs import RepeatedWarning, logger
from ..model import ConnectionInfo, PresenceStatus
from ..node_identity import NodeIdentity
from ..redis.presence import Change, PresenceStore, Turn, overall_status
from ..redis.redis_service import RedisService
from ..settings import EdgeSettings, PresenceSettings
from ..supervision import Aside, Supervisor, periodically, summoned
from .ledger import REFRESH_MS, PresenceLedger

#: 一次 Lua 写入至多这么多条连接（约 2 ms 的 Redis），再大就会推迟别人的命令。
FLUSH_CHUNK: Final = 100
#: 列出在线用户时一次核实这么多人。
READ_CHUNK: Final = 500
#: 键活这么多个“最迟多久写一次”：迟一两次不至于让在线的人消失。
TTL_REFRESHES: Final = 3
#: 翻页时，候选名单可以旧这么久；第一页总是现取。十万人的名单取一次约 50 ms。
CANDIDATES_MS: Final = 2_000

#: 上线、下线了的人告诉谁；不等它。
TurnSink = Callable[[Sequence[Turn]], None]


def unheard(_turns: Sequence[Turn]) -> None:
    """没有人要知道。"""


#: 一个在线用户与他的连接。
OnlineUser = tuple[int, list[ConnectionInfo]]


@dataclass(frozen=True, slots=True)
class PresenceStatistics:
    """``statistics()`` 的快照；除 ``connections``、``pending`` 外都只增。"""

    connections: int
    pending: int
    changes_written: int
    heartbeats: int
    heartbeats_written: int
    nodes_reaped: int
    connections_reaped: int
    sweeps: int
    swept: int
    reconciled_written: int
    reconciled_removed: int


class OnlineStatusService:
    """读取的方法都忽略死节点，Redis 不在时抛出 ``RedisUnavailableError``。

    ``reaper.run`` 不持有连接的进程也要运行：收拾死节点是所有人的事。
    """

    def __init__(
        self,
        redis: RedisService,
        node: NodeIdentity,
        settings: PresenceSettings,
        edge: EdgeSettings,
        *,
        aside: Aside,
        turned: TurnSink = unheard,
        clock: Clock = now_ms,
    ) -> None:
        """``turned``：上线、下线了的人告诉它。"""
        ttl_ms = (REFRESH_MS + int(edge.heartbeat_timeout_s * 1000)) * TTL_REFRESHES
        self._store = PresenceStore(redis.lean, redis.keys, node, ttl_ms)
        self._node = node
        self._lease_s = settings.node_lease_s
        self._flush_s = settings.flush_ms / 1000
        self._clock = clock
        self._aside = aside
        self._turned = turned
        #: 边缘往这里记。
        self.ledger = PresenceLedger(node, int(edge.heartbeat_interval_s * 1000))
        self.reaper = PresenceReaper(self._store, node, settings.node_lease_s, turned)
        self.reconciler = PresenceReconciler(self._store, self.ledger, settings.sweep_s)
        self._flushing = asyncio.Lock()
        self._behind = RepeatedWarning("presence_behind")
        self._lease_deferred = RepeatedWarning("node_lease_deferred")
        #: 租约断过，还没有把所有人重新宣布一遍。
        self._returning = False
        self._changes_written = 0
        self._candidates: tuple[int, list[int]] = (0, [])

    def resync(self) -> None:
        """Redis 可能丢了东西：把本节点的全部连接再写一遍。"""
        self.ledger.mark_all()

    # ── 生命周期 ─────────────────────────────────────────────────────────────

    async def start(self, supervisor: Supervisor) -> None:
        """取得租约（没有租约的节点，它的连接不算数），启动写入、续租、对账三个循环。

        :raises RedisUnavailableError: 没有取得租约，什么也没启动
        """
        await self._renew()
        supervisor.start("presence-flush", self._flush_loop)
        supervisor.start("node-lease", self._lease_loop)
        supervisor.start("presence-sweep", self.reconciler.run)

    async def close(self) -> None:
        """在各循环停下之后调用：放弃租约，自己收拾自己；Redis 不在就留给别人。"""
        self.ledger.abandon()
        try:
            await self._store.drop_lease()
            await self.reaper.reap(self._node.id)
        except MeetingPushError as error:
            logger.bind(code=error.code, cause=error.cause).warning("presence_left_to_lease")

    # ── 写入 ────────────────────────────────────────────────────────────────

    async def flush(self) -> None:
        """立刻写入全部变化。失败时它们仍在账上。

        :raises RedisUnavailableError: 没有写完
        """
        async with self._flushing:
            while self.ledger.pending:
                await self._flush_chunk()
            self._returning = False

    async def _flush_chunk(self) -> None:
        now = self._clock()
        changes = self.ledger.take(FLUSH_CHUNK, now)
        try:
            # 写不成的（这个人的键坏了）放手：只是别人看不见他
            await self._aside.isolate(changes, partial(self._apply, now), lambda change: change[:2])
        except BaseException:  # 取消也一样：不知道写没写，重写无害
            self.ledger.put_back(changes)
            raise
        self.ledger.settle(changes)
        self._changes_written += len(changes)

    async def _apply(self, now: int, changes: Sequence[Change]) -> None:
        self._turned(await self._store.apply(changes, now, announce=self._returning))

    async def _flush_loop(self) -> None:
        pause = partial(summoned, self.ledger.wake, gather_s=self._flush_s)
        await periodically(self._flush_or_resync, pause, self._behind)

    async def _flush_or_resync(self) -> None:
        try:
            await self.flush()
        except RedisUnavailableError:
            self.resync()  # 回来的可能是一个空的 Redis
            raise

    # ── 租约 ────────────────────────────────────────────────────────────────

    async def _lease_loop(self) -> None:
        pause = partial(asyncio.sleep, self._lease_s / 3)
        await periodically(self._renew_or_return, pause, self._lease_deferred)

    async def _renew_or_return(self) -> None:
        if not await self._renew():
            self._return()

    def _return(self) -> None:
        """租约断过：别人可能已把本节点的连接清掉；没清的，也已读成离线而无人再说他们在。"""
        self._returning = True
        self.resync()

    async def _renew(self) -> bool:
        return await self._store.renew_lease(self._lease_s * 1000, self._clock())

    # ── 需求文档的方法 ────────────────────────────────────────────────────────

    async def set_user_online(self, user_id: int, connection_info: ConnectionInfo) -> None:
        """登记一条本节点的连接，返回时已写入 Redis。"""
        self.ledger.connection_opened(user_id, connection_info)
        await self.flush()

    async def set_user_offline(self, user_id: int, connection_id: str) -> None:
        """移走一条连接，返回时已写入 Redis。幂等。

        哪个节点的都可以；但持有它的节点若还活着，下次对账会把它写回来：要它真的离开，
        用控制频道的 ``kick``。
        """
        self.ledger.expel([(user_id, connection_id)])
        await self.flush()

    async def get_user_connections(self, user_id: int) -> list[ConnectionInfo]:
        return (await self._store.connections([user_id]))[0]

    async def get_user_connection_count(self, user_id: int) -> int:
        return len(await self.get_user_connections(user_id))

    async def is_user_online(self, user_id: int) -> bool:
        return bool(await self.get_user_connections(user_id))

    async def get_online_users(self, after: int = 0, limit: int | None = None) -> list[int]:
        """在线用户的 id，升序；从 ``after`` 之后起，至多 ``limit`` 个。"""
        return [user_id for user_id, _ in await self.online_page(after, limit)]

    # ── 其余的读取 ───────────────────────────────────────────────────────────

    async def online_page(self, after: int = 0, limit: int | None = None) -> list[OnlineUser]:
        """同 ``get_online_users``，带着各人的连接。"""
        candidates = await self._candidates_after(after)
        size = READ_CHUNK if limit is None else min(READ_CHUNK, limit)
        online: list[OnlineUser] = []
        for start in range(0, len(candidates), size):
            chunk = candidates[start : start + size]
            rows = await self._store.connections(chunk)
            online += [pair for pair in zip(chunk, rows, strict=True) if pair[1]]
            if limit is not None and len(online) >= limit:
                return online[:limit]
        return online

    async def _candidates_after(self, after: int) -> list[int]:
        now = self._clock()
        read_at, known = self._candidates
        if after == 0 or not 0 <= now - read_at <= CANDIDATES_MS:
            known = await self._store.candidates(now)
            self._candidates = (now, known)
        return known[bisect_right(known, after) :]

    async def statuses(self, user_ids: Sequence[int]) -> list[PresenceStatus | None]:
        """各人合起来的状态，次序不变；None = 不在线。"""
        return [overall_status(row) for row in await self._store.connections(user_ids)]

    def statistics(self) -> PresenceStatistics:
        ledger, reaper, reconciler = self.ledger, self.reaper, self.reconciler
        return PresenceStatistics(
            connections=ledger.connections,
            pending=ledger.pending,
            changes_written=self._changes_written,
            heartbeats=ledger.beats,
            heartbeats_written=ledger.beats_written,
            nodes_reaped=reaper.nodes_reaped,
            connections_reaped=reaper.connections_reaped,
            sweeps=reconciler.sweeps,
            swept=reconciler.checked,
            reconciled_written=reconciler.rewritten,
            reconciled_removed=reconciler.removed,
        )


# ── 打理 ────────────────────────────────────────────────────────────────────

#: 每个租期看几次。节点死后至多一个租期加一次间隔，就被收拾：30 s 的租期不到 40 s。
SWEEPS_PER_LEASE: Final = 4


class PresenceReaper:
    """每个进程都跑一个；没有主，也不用锁：每一步是一段原子的 Lua，每条连接只会被移走一次。

    所有进程都死了，就没有人收拾，也没有人读；键自己过期。
    """

    def __init__(
        self, store: PresenceStore, node: NodeIdentity, lease_s: float, turned: TurnSink = unheard
    ) -> None:
        """``turned``：由此下线了的人告诉它。"""
        self._store = store
        self._node = node
        self._turned = turned
        self._interval_s = lease_s / SWEEPS_PER_LEASE
        self._deferred = RepeatedWarning("presence_reap_deferred")
        self.nodes_reaped = 0
        self.connections_reaped = 0

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.sweep, partial(asyncio.sleep, self._interval_s), self._deferred)

    async def sweep(self) -> None:
        """:raises RedisUnavailableError: 没看完；已移走的算数"""
        for node_id in await self._store.dead_nodes():
            if node_id != self._node.id:  # 自己的租约断了自己会续，不必收拾自己
                await self.reap(node_id)

    async def reap(self, node_id: str) -> None:
        """收拾一个节点直到干净；它中途活过来就停手（它会把自己的连接重写一遍）。"""
        removed, left = 0, 1
        while left:
            step = await self._store.reap(node_id)
            removed, left = removed + step.removed, step.left
            self.connections_reaped += step.removed
            self._turned(step.turned)
            if step.last:
                self.nodes_reaped += node_id != self._node.id  # 自己从容离开的不算
                logger.bind(reaped=node_id, connections=removed).info("node_reaped")


RECONCILE_CHUNK: Final = 500
#: 两块之间歇一歇：十万条连接约 200 块，摊在十秒里，Redis 与事件循环都无感。
RECONCILE_PAUSE_S: Final = 0.05


class PresenceReconciler:
    """只读地比较，差异记到账上，由写入循环去改。"""

    def __init__(self, store: PresenceStore, ledger: PresenceLedger, interval_s: float) -> None:
        self._store = store
        self._ledger = ledger
        self._interval_s = interval_s
        self._deferred = RepeatedWarning("presence_sweep_deferred")
        self.sweeps = 0
        self.checked = 0
        self.rewritten = 0
        self.removed = 0

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        pause = partial(asyncio.sleep, self._interval_s)
        await pause()
        await periodically(self.sweep, pause, self._deferred)

    async def sweep(self) -> None:
        """对一遍账。

        :raises RedisUnavailableError: 没对完；已发现的差异已记账
        """
        before = self.rewritten + self.removed
        await self._find_missing()
        await self._find_strangers()
        self.sweeps += 1
        if found := self.rewritten + self.removed - before:
            logger.bind(differences=found).warning("presence_reconciled")

    async def _find_missing(self) -> None:
        """本节点有而 Redis 没有的：重写。"""
        for chunk in self._ledger.live_chunks(RECONCILE_CHUNK):
            self.checked += len(chunk)
            missing = await self._store.missing(chunk)
            still = [each for each in missing if self._ledger.is_settled(each)]
            self._ledger.mark(still)
            self.rewritten += len(still)
            await self._pause(len(chunk))

    async def _find_strangers(self) -> None:
        """Redis 有而本节点没有的：移走。"""
        async for page in self._store.indexed():
            strangers = {each for each in page if self._ledger.is_unknown(each)}
            self._ledger.expel(strangers)
            self.removed += len(strangers)
            await self._pause(len(page))

    async def _pause(self, handled: int) -> None:
        if handled >= RECONCILE_CHUNK:
            await asyncio.sleep(RECONCILE_PAUSE_S)
