"""每个用户的设备数：所有节点合计，满了按规矩拒绝或顶掉（``device_policy``）。"""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import islice
from typing import Final

from ..errors import MeetingPushError
from ..logs import RepeatedWarning, logger
from ..node.control_channel import ControlCommand
from ..node_identity import NodeIdentity
from ..redis.presence import ConnectionKey, SeatRules, SeatStore
from ..redis.redis_service import RedisService
from ..settings import PresenceSettings
from ..supervision import Aside, periodically, summoned

#: 座位表活多久；本节点的座位每三分之一个周期续一次。只为补上 Redis 丢的，所以可以很慢：
#: 节点死了看租约，不看它。
TTL_S: Final = 1_800
CHUNK: Final = 500


class Replace(ControlCommand, frozen=True, kw_only=True, tag="replace"):
    """这些连接的座位被顶掉了（4505）；由占座的 Lua 发布。

    至多一次：错过它的节点上，旧连接会留下来，座位在下次续期时回到表里，那时可能多出一个。
    """

    user_id: int
    connection_ids: tuple[str, ...]


class DeviceSeats:
    """实现 ``contracts.Seats``；``run``、``run_renewal`` 须由监督者一直运行。"""

    def __init__(
        self,
        redis: RedisService,
        node: NodeIdentity,
        settings: PresenceSettings,
        *,
        aside: Aside,
    ) -> None:
        rules = SeatRules(settings.max_devices_per_user, settings.device_policy, TTL_S * 1000)
        self.store = self._store = SeatStore(redis.lean, redis.keys, node, rules)
        self._aside = aside
        #: 本节点占着的。
        self._held: dict[ConnectionKey, bytes] = {}
        #: 已让出、还没写进 Redis 的（有序集合）。
        self._released: dict[ConnectionKey, None] = {}
        self._wake = asyncio.Event()
        self._deferred = RepeatedWarning("seats_deferred")
        self._lost = asyncio.Event()
        self._refused = 0

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def refused(self) -> int:
        """因满了而拒绝的次数，只增。"""
        return self._refused

    async def claim(self, user_id: int, connection_id: str, device_id: str) -> bool:
        return self.took(
            user_id, connection_id, await self._store.claim(user_id, connection_id, device_id)
        )

    def took(self, user_id: int, connection_id: str, seat: bytes | None) -> bool:
        """占座的结果，别处（``redis/arrivals.py``）问来的也一样。"""
        if seat is None:
            self._refused += 1
            return False
        self._held[user_id, connection_id] = seat
        return True

    def release(self, user_id: int, connection_id: str) -> None:
        self._held.pop((user_id, connection_id), None)
        self._released[user_id, connection_id] = None
        self._wake.set()

    def resync(self) -> None:
        """Redis 可能丢了东西：把本节点的座位再写一遍。"""
        self._lost.set()

    # ── 写入 ────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """尽快写出让出的：前一批在途时攒下的成为下一批。"""
        await periodically(self.flush, partial(summoned, self._wake), self._deferred)

    async def flush(self) -> None:
        """:raises RedisUnavailableError: 没有写完；剩下的还留着"""
        while chunk := list(islice(self._released, CHUNK)):
            await self._aside.isolate(chunk, self._store.release)
            for holder in chunk:
                self._released.pop(holder, None)  # 关机时与 ``run`` 可能同时在写

    async def drain(self) -> None:
        """关机时：写出让出的；写不出就算了，本节点的租约没了它们也不算数。"""
        try:
            await self.flush()
        except MeetingPushError as error:
            logger.bind(code=error.code, cause=error.cause, seats=len(self._released)).warning(
                "seats_left_to_lease"
            )

    async def run_renewal(self) -> None:
        """慢慢地续；``resync`` 之后立刻。"""
        pause = partial(summoned, self._lost, TTL_S / 3)
        await periodically(self._renew, pause, self._deferred)

    async def _renew(self) -> None:
        holders = iter(list(self._held))
        while chunk := list(islice(holders, CHUNK)):
            held = self._held
            await self._aside.isolate(
                [(each, held[each]) for each in chunk if each in held],
                self._store.renew,
                lambda seat: seat[0],
            )
