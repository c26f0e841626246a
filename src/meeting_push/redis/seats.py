"""座位表的 Redis 操作：每个用户一个哈希，connection_id → 何时、在哪个节点、哪台设备。

在线状态是成批写的，几百毫秒之后才看得见，所以数不得；座位在连接时一次往返占下。
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from ..node_identity import NodeIdentity
from ..settings import DevicePolicy
from .connection.lean import LeanConnection
from .connection.link import Argument
from .keys import Keys
from .scripts import Script

_claim: Final = Script("seat_claim")

#: (user_id, connection_id)
Holder = tuple[int, str]


class SeatRules(NamedTuple):
    """``ttl_ms``：整张表多久没有人占或续，就当所有节点都死了。"""

    limit: int
    policy: DevicePolicy
    ttl_ms: int


class SeatStore:
    """一个节点眼里的座位表；错误同 ``LeanConnection.execute``。"""

    def __init__(
        self, lean: LeanConnection, keys: Keys, node: NodeIdentity, rules: SeatRules
    ) -> None:
        self._lean = lean
        self._keys = keys
        self._node = node
        self._rules = rules

    async def claim(self, user_id: int, connection_id: str, device_id: str) -> bytes | None:
        """占一个座位，返回它的值；满了则 None。常态一次往返，满了再加两次。"""
        verdict, rest = await self._ask(user_id, connection_id, device_id, [0])
        if verdict < 0:
            dead = await self._dead(rest)
            verdict, rest = await self._ask(user_id, connection_id, device_id, [1, *dead])
        return rest[0] if verdict > 0 else None

    async def _ask(
        self, user_id: int, connection_id: str, device_id: str, asked: Sequence[Argument]
    ) -> tuple[int, list[bytes]]:
        rules, keys = self._rules, self._keys
        answer = await _claim.run(
            self._lean,
            (keys.user_slots(user_id),),
            (
                *(user_id, connection_id, self._node.id, device_id),
                *(rules.limit, rules.policy, rules.ttl_ms, keys.system_channel),
                *asked,
            ),
        )
        return answer[0], answer[1:]

    async def _dead(self, nodes: Sequence[bytes]) -> list[bytes]:
        leases = await self._lean.execute("MGET", *(self._keys.node(n.decode()) for n in nodes))
        return [node for node, lease in zip(nodes, leases, strict=True) if lease is None]

    async def release(self, holders: Iterable[Holder]) -> None:
        slots = self._keys.user_slots
        await self._lean.execute_many(
            [("HDEL", slots(user_id), connection_id) for user_id, connection_id in holders]
        )

    async def renew(self, seats: Iterable[tuple[Holder, bytes]]) -> None:
        """把这些座位再写一遍：表可能快过期了，或随 Redis 的数据丢了。"""
        commands: list[tuple[Argument, ...]] = []
        for (user_id, connection_id), seat in seats:
            key = self._keys.user_slots(user_id)
            commands.append(("HSET", key, connection_id, seat))
            commands.append(("PEXPIRE", key, self._rules.ttl_ms))
        await self._lean.execute_many(commands)
