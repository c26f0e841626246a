"""舰队：这个节点与别的节点合不合，只有它自己够不到 Redis 时怎么办。"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from loguru import logger

from ..errors import MeetingPushError
from ..node.fleet_membership import CutOff, FleetMembership
from ..node_identity import NodeIdentity
from ..redis.probe import RedisProbe
from ..settings import Settings
from ..storage.fleet import NodeRepository
from ..supervision import Supervisor
from ..version import __version__
from .rooms import Rooms

#: 被切断的原因，见 ``NodeHearing.give_up``。
CUT_OFF = "cut_off"


class Fleet:
    """``hears``：最近一遍检查里，写得进、（有连接的）也听得见 Redis。"""

    def __init__(
        self, settings: Settings, node: NodeIdentity, rooms: Rooms, hears: Callable[[], bool]
    ) -> None:
        self._holds_sockets = settings.role.holds_sockets
        self.probe = RedisProbe(rooms.bus.redis, node, delivers=settings.role.delivers)
        self.membership = FleetMembership(
            node,
            NodeRepository(rooms.record.database),
            rooms.access.keyring,
            role=settings.role,
            version=__version__,
            hears=hears,
            redis_skew_ms=lambda: self.probe.skew_ms,
        )
        hearing = rooms.edge.hearing
        self.cut_off = CutOff(
            hears=hears,
            well_elsewhere=self.membership.well_elsewhere,
            after_s=settings.cut_off_s,
            give_up=lambda: hearing.give_up(CUT_OFF),
            recover=lambda: hearing.recover(CUT_OFF),
        )

    def start(self, supervisor: Supervisor, stack: contextlib.AsyncExitStack) -> None:
        stack.push_async_callback(self._withdraw)
        if self._holds_sockets:
            supervisor.start("cut-off", self.cut_off.run)

    async def _withdraw(self) -> None:
        try:
            await self.membership.withdraw()
        except MeetingPushError as error:  # 几秒之后别人自会不再算它
            logger.bind(code=error.code, cause=error.cause).debug("node_not_withdrawn")
