"""定期的事：续在场，清掉死节点留下的，与记录核对有没有漏段、漏了结束。"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from ..clock import Clock
from ..errors import MeetingPushError
from ..logs import RepeatedWarning
from ..protocol.frames import encode
from ..redis.meeting_bus import MeetingBus, Online
from ..supervision import Aside, periodically, woken
from .frames import Join, Leave
from .room import OpenRooms, Room
from .service import MeetingDesk


class Keeper:
    """``run`` 由监督者一直运行。"""

    def __init__(
        self, rooms: OpenRooms, desk: MeetingDesk, bus: MeetingBus, refresh_s: float, clock: Clock
    ) -> None:
        self._rooms = rooms
        self._desk = desk
        self._bus = bus
        self._refresh_s = refresh_s
        self._clock = clock
        self._aside = Aside("meeting-keeper")
        self._deaf = asyncio.Event()
        self._failed = RepeatedWarning("meeting_keeping_failed")

    def resubscribed(self) -> None:
        """频道断过又订上了：这期间的段、到场与离开都没有收到。"""
        self._deaf.set()

    async def run(self) -> None:
        pause = partial(woken, self._deaf, self._refresh_s)
        await periodically(self._keep_or_restate, pause, self._failed)

    async def _keep_or_restate(self) -> None:
        was_deaf = self._deaf.is_set()
        self._deaf.clear()
        try:
            await self._keep(restate=was_deaf)
        except MeetingPushError:
            if was_deaf:
                self._deaf.set()
            raise

    async def _keep(self, *, restate: bool) -> None:
        rooms = [room for room in self._rooms if room.connections]
        if not rooms:
            return
        positions = await self._desk.positions([room.meeting_id for room in rooms])
        for room in rooms:
            if room.meeting_id in positions:
                room.reconcile(positions[room.meeting_id])
        # 一间的键坏了，别的照续
        work = self._restate_all if restate else self._refresh_all
        await self._aside.isolate(rooms, work, lambda room: room.meeting_id)

    async def _restate_all(self, rooms: Sequence[Room]) -> None:
        for room in rooms:
            await self._restate(room)

    async def _refresh_all(self, rooms: Sequence[Room]) -> None:
        for room in rooms:
            await self._refresh(room)

    async def _refresh(self, room: Room) -> Online:
        members = [connection.member for connection in room.connections if connection.entered]
        return await self._bus.refresh(room.meeting_id, members)

    async def _restate(self, room: Room) -> None:
        """把此刻在场的人重说一遍；读的时候又有变化就再读，免得旧的盖过新的。

        这期间离开会议的人，也没有听说：名单上没有的送走。
        """
        members = await self._desk.member_ids(room.meeting_id)
        room.expel(lambda user_id: user_id not in members)
        while True:
            version = room.presence_version
            online = await self._refresh(room)
            if version == room.presence_version:
                break
        now = self._clock()
        for user_id, name in [*room.online.items()]:
            if user_id not in online:
                leave = Leave(user_id=user_id, name=name, online=False, timestamp=now)
                room.restate(leave, encode(leave))
        for user_id, name in online.items():
            join = Join(user_id=user_id, name=name, online=True, timestamp=now)
            room.restate(join, encode(join))
