"""在线状态：谁在哪个节点上有几条连接。

边缘只往内存里记账；一个循环每 ``presence_flush_ms`` 成批写入 Redis，同一条连接在一批里的
多次心跳合成一次。Redis 断开时照常记账（量以连接数为界），恢复后把本节点的全部重写一遍。
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import Final

from loguru import logger
from msgspec.structs import replace

from ..clock import Clock, now_ms
from ..errors import MeetingPushError, RedisUnavailableError
from ..model import ConnectionInfo, PresenceStatus
from ..redis.presence import Change, PresenceStore
from ..settings import Settings
from ..supervision import Supervisor
from .redis_service import RedisService

#: 一次 Lua 写入至多这么多条连接（约 1.5 ms）。
FLUSH_CHUNK: Final = 500
#: 列出在线用户时一次核实这么多人。
READ_CHUNK: Final = 500
RETRY_AFTER_S: Final = 0.5
#: 键活这么多个心跳时限：心跳迟到一两次不至于让在线的人消失。
TTL_HEARTBEATS: Final = 3

#: (user_id, connection_id)
Connection = tuple[int, str]


class OnlineStatusService:
    """实现 ``contracts.PresenceSink``；读取的方法都忽略死节点，Redis 不在时抛出
    ``RedisUnavailableError``。
    """

    def __init__(
        self, redis: RedisService, node_id: str, settings: Settings, *, clock: Clock = now_ms
    ) -> None:
        ttl_ms = int(settings.heartbeat_timeout_s * 1000) * TTL_HEARTBEATS
        self._store = PresenceStore(redis.lean, redis.keys, ttl_ms)
        self._node_id = node_id
        self._lease_s = settings.node_lease_s
        self._flush_s = settings.presence_flush_ms / 1000
        self._clock = clock
        self._live: dict[Connection, ConnectionInfo] = {}
        #: 待写的连接（有序集合）；写什么由写的那一刻 ``_live`` 里有没有它决定。
        self._dirty: dict[Connection, None] = {}
        #: 可能已在 Redis 里的连接：从未写入的关闭时不必去删，断线再久也只积压这么多。
        self._written: set[Connection] = set()
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._behind = False

    # ── PresenceSink：只记账 ─────────────────────────────────────────────────

    def connection_opened(self, user_id: int, info: ConnectionInfo) -> None:
        self._note((user_id, info.connection_id), info)

    def connection_closed(self, user_id: int, connection_id: str) -> None:
        connection = (user_id, connection_id)
        self._live.pop(connection, None)
        if connection in self._written:
            self._mark((connection,))
        else:
            self._dirty.pop(connection, None)

    def heartbeat(self, user_id: int, connection_id: str, now: int) -> None:
        info = self._live.get((user_id, connection_id))
        if info is not None:
            self._note((user_id, connection_id), replace(info, last_heartbeat=now))

    def status_changed(
        self,
        user_id: int,
        connection_id: str,
        status: PresenceStatus,
        device_info: str | None,
    ) -> None:
        info = self._live.get((user_id, connection_id))
        if info is not None:
            device = info.device_info if device_info is None else device_info
            changed = replace(info, status=status, device_info=device)
            self._note((user_id, connection_id), changed)

    def resync(self) -> None:
        """Redis 可能丢了东西：把本节点的全部连接再写一遍。"""
        self._mark(self._live)

    def _note(self, connection: Connection, info: ConnectionInfo) -> None:
        self._live[connection] = info
        self._mark((connection,))

    def _mark(self, connections: Iterable[Connection]) -> None:
        self._dirty.update(dict.fromkeys(connections))
        self._wake.set()

    # ── 生命周期 ─────────────────────────────────────────────────────────────

    async def start(self, supervisor: Supervisor) -> None:
        """取得租约（没有租约的节点，它的连接不算数），启动写入与续租两个循环。

        :raises RedisUnavailableError: 没有取得租约，什么也没启动
        """
        await self._renew()
        supervisor.start("presence-flush", self._flush_loop)
        supervisor.start("node-lease", self._lease_loop)

    async def close(self) -> None:
        """在两个循环停下之后调用：移走本节点的全部连接与租约；Redis 不在就留给租约过期。"""
        self._live.clear()
        self._dirty = dict.fromkeys(self._written)
        try:
            await self.flush()
            await self._store.drop_lease(self._node_id)
        except MeetingPushError as error:
            logger.bind(code=error.code).warning("presence_left_to_lease")

    # ── 写入 ────────────────────────────────────────────────────────────────

    async def flush(self) -> None:
        """立刻写入全部变化。失败时它们仍在账上。

        :raises RedisUnavailableError: 没有写完
        """
        async with self._flushing:
            while self._dirty:
                await self._flush_chunk()

    async def _flush_chunk(self) -> None:
        chunk = list(islice(self._dirty, FLUSH_CHUNK))
        changes: list[Change] = [(*connection, self._live.get(connection)) for connection in chunk]
        for connection in chunk:
            del self._dirty[connection]
        self._written.update((user, name) for user, name, info in changes if info is not None)
        try:
            await self._store.apply(changes, self._clock())
        except BaseException:  # 取消也一样：不知道写没写，重写无害
            self._mark(chunk)
            raise
        self._written.difference_update(
            (user, name) for user, name, info in changes if info is None
        )

    async def _flush_loop(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(self._flush_s)
            try:
                await self.flush()
            except RedisUnavailableError as error:
                await self._fall_behind(error)
            else:
                self._behind = False

    async def _fall_behind(self, error: RedisUnavailableError) -> None:
        if not self._behind:
            self._behind = True
            logger.bind(reason=error.message, dirty=len(self._dirty)).warning("presence_behind")
        self.resync()  # 回来的可能是一个空的 Redis
        await asyncio.sleep(RETRY_AFTER_S)

    # ── 租约 ────────────────────────────────────────────────────────────────

    async def _lease_loop(self) -> None:
        while True:
            try:
                if not await self._renew():
                    self.resync()  # 租约断过：别人可能已把本节点的连接清掉
            except RedisUnavailableError:
                await asyncio.sleep(RETRY_AFTER_S)
            else:
                await asyncio.sleep(self._lease_s / 3)

    async def _renew(self) -> bool:
        return await self._store.renew_lease(self._node_id, self._lease_s * 1000, self._clock())

    # ── 需求文档的方法 ────────────────────────────────────────────────────────

    async def set_user_online(self, user_id: int, connection_info: ConnectionInfo) -> None:
        """登记一条本节点的连接，返回时已写入 Redis。"""
        self.connection_opened(user_id, connection_info)
        await self.flush()

    async def set_user_offline(self, user_id: int, connection_id: str) -> None:
        """移走一条连接（哪个节点的都可以），返回时已写入 Redis。幂等。"""
        self._written.add((user_id, connection_id))
        self.connection_closed(user_id, connection_id)
        await self.flush()

    async def get_user_connections(self, user_id: int) -> list[ConnectionInfo]:
        return (await self._store.connections([user_id]))[0]

    async def get_user_connection_count(self, user_id: int) -> int:
        return len(await self.get_user_connections(user_id))

    async def is_user_online(self, user_id: int) -> bool:
        return bool(await self.get_user_connections(user_id))

    async def get_online_users(self, after: int = 0, limit: int | None = None) -> list[int]:
        """在线用户的 id，升序；从 ``after`` 之后起，至多 ``limit`` 个。"""
        candidates = [user for user in await self._store.candidates(self._clock()) if user > after]
        online: list[int] = []
        for start in range(0, len(candidates), READ_CHUNK):
            chunk = candidates[start : start + READ_CHUNK]
            rows = await self._store.connections(chunk)
            online += [user for user, row in zip(chunk, rows, strict=True) if row]
            if limit is not None and len(online) >= limit:
                return online[:limit]
        return online
