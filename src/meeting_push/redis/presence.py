"""在线状态的 Redis 操作：每个用户的连接表、全局在线集合、节点租约。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from loguru import logger

from ..model import ConnectionInfo
from .keys import Keys
from .lean import LeanConnection
from .link import Argument
from .scripts import Script

_presence: Final = Script("presence")
_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(ConnectionInfo)

#: 一条连接的变化：(user_id, connection_id, 现状)；None 表示它没了。
Change = tuple[int, str, ConnectionInfo | None]


class PresenceStore:
    """读取一律忽略租约已失效的节点留下的连接（CON-2）。"""

    def __init__(self, lean: LeanConnection, keys: Keys, ttl_ms: int) -> None:
        self._lean = lean
        self._keys = keys
        self._ttl_ms = ttl_ms

    async def apply(self, changes: Sequence[Change], now: int) -> None:
        """一次 Lua 写入一批；幂等，重来无害。"""
        args: list[Argument] = [self._keys.prefix, self._ttl_ms, now - self._ttl_ms]
        for user_id, connection_id, info in changes:
            if info is None:
                args += (user_id, connection_id, "", 0)
            else:
                args += (user_id, connection_id, _encoder.encode(info), info.last_heartbeat)
        await _presence.run(self._lean, (), args)

    async def connections(self, user_ids: Sequence[int]) -> list[list[ConnectionInfo]]:
        """各用户在活着的节点上的连接，次序与 ``user_ids`` 相同。"""
        rows = await self._lean.execute_many(
            [("HVALS", self._keys.online_user(user_id)) for user_id in user_ids]
        )
        found = [[info for raw in row if (info := _decode(raw)) is not None] for row in rows]
        alive = await self._alive({info.node for infos in found for info in infos})
        return [[info for info in infos if info.node in alive] for infos in found]

    async def candidates(self, now: int) -> list[int]:
        """近期有过心跳的用户，user_id 升序；可能含死节点上的，要再用 ``connections`` 核实。"""
        since = now - self._ttl_ms
        key = self._keys.online_users_set
        return sorted(map(int, await self._lean.execute("ZRANGEBYSCORE", key, since, "+inf")))

    async def renew_lease(self, node_id: str, ttl_ms: int, now: int) -> bool:
        """续租；返回此前租约是否还在（不在则别人可能已当本节点死了）。"""
        key = self._keys.node(node_id)
        return await self._lean.execute("SET", key, now, "PX", ttl_ms, "GET") is not None

    async def drop_lease(self, node_id: str) -> None:
        await self._lean.execute("DEL", self._keys.node(node_id))

    async def _alive(self, nodes: set[str]) -> set[str]:
        if not nodes:
            return set()
        ordered = list(nodes)
        leases = await self._lean.execute("MGET", *map(self._keys.node, ordered))
        return {node for node, lease in zip(ordered, leases, strict=True) if lease is not None}


def _decode(raw: bytes) -> ConnectionInfo | None:
    try:
        return _decoder.decode(raw)
    except msgspec.DecodeError:
        logger.warning("presence_entry_malformed")
        return None
