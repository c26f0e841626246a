"""会议：自己的 Redis 连接与上限（ISO-1）；由有 FastAPI 的角色（all、api）提供。"""

from __future__ import annotations

import contextlib

from ..errors import RedisUnavailableError
from ..meeting.entrance import limits_of_meetings
from ..meeting.hub import MeetingHub
from ..meeting.service import MeetingDesk, MeetingRules, MeetingService
from ..protocol.codes import CloseCode
from ..redis.meeting_bus import MeetingBus
from ..settings import Settings
from ..supervision import Supervisor
from ..websocket.registry import window_s
from .access import Access
from .bus import Bus
from .edge import Edge
from .message_path import MessagePath
from .record import Record


class Meetings:
    """与用户连接共用一个 ``Authenticator``：握手的限速合在一起算。"""

    def __init__(
        self,
        settings: Settings,
        *,
        record: Record,
        bus: Bus,
        access: Access,
        messages: MessagePath,
        edge: Edge,
    ) -> None:
        self._drain_window_s = settings.drain_window_s
        self._holds_sockets = settings.role.holds_sockets
        self._seats = edge.seats
        stores = record.meeting_stores
        self.bus = MeetingBus(
            bus.redis.address,
            bus.redis.keys,
            ttl_ms=int(settings.meeting_refresh_s * 3000),
            timeout_s=settings.redis_timeout_s,
        )
        self.service = MeetingService(
            stores,
            rules=MeetingRules.of(settings),
            messages=messages.messages,
            bus=self.bus,
            clock=bus.clock,
        )
        self.hub = MeetingHub(
            authenticator=edge.manager.authenticator,
            desk=MeetingDesk(stores.meetings, stores.transcripts, bus.clock),
            bus=self.bus,
            limits=limits_of_meetings(settings),
            admission=edge.manager.admission,
            seats=edge.seats,
            clock=bus.clock,
        )
        access.revocations.listen(self.hub.disconnect_revoked)
        edge.dismissals.also_replaced(self.hub.replaced)

    async def start(self, supervisor: Supervisor, stack: contextlib.AsyncExitStack) -> None:
        hub = self.hub
        await self.bus.start(hub.on_channel_message, hub.keeper.resubscribed)
        stack.push_async_callback(self.bus.close)
        supervisor.start("meeting-keeper", hub.keeper.run)
        supervisor.start("meeting-sweep", hub.heartbeat.run)
        if not self._holds_sockets:  # 不然边缘已经让它们跑着
            supervisor.start("seats", self._seats.run)
            supervisor.start("seat-renewal", self._seats.run_renewal)

    async def send_off(self) -> None:
        """送走会议里的客人。"""
        spread_s = window_s(self.hub.statistics().sockets, self._drain_window_s)
        await self.hub.close_all(CloseCode.SERVER_DRAINING, spread_s)
        await self._seats.drain()

    async def check(self) -> None:
        if not self.bus.connected:
            raise RedisUnavailableError("not subscribed")
